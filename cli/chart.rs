//! Pictures as SVG and PNG.

pub mod losses;
pub mod pareto;
pub mod parts;
pub mod scaling;
pub mod sizes;
pub mod speedup;

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use mediswift_files::{self as files, Draft};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::{FontStyle, register_font};

use crate::verb::{Exit, refuse_to_overwrite};

/// Pixels of the PNG per unit of the SVG: sharp in print.
const SCALE: u32 = 2;

/// The font of all text: built in, so that pictures look the same everywhere.
pub const FONT: &str = "sans-serif";

/// Colours that stay apart in print and for the colour-blind (Okabe and Ito).
pub const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(213, 94, 0),
    RGBColor(150, 130, 40),
];

/// The two files of one chart, which appear when it is drawn.
pub struct Files {
    svg: Draft,
    png: Draft,
}

/// Where the SVG and the PNG of a chart are that is named by one of them.
pub fn paths(path: &Path) -> anyhow::Result<[PathBuf; 2]> {
    let ending = path.extension().and_then(|ending| ending.to_str());
    if !matches!(ending, Some("svg" | "png")) {
        let message = format!("{}: name a chart .svg or .png", path.display());
        return Err(Exit::usage(message).into());
    }
    Ok(["svg", "png"].map(|ending| path.with_extension(ending)))
}

impl Files {
    /// As [`Files::create`], but nothing that is there already is lost unless `force` says so.
    pub fn fresh(path: &Path, force: bool) -> anyhow::Result<Self> {
        paths(path)?.iter().try_for_each(|path| refuse_to_overwrite(path, force))?;
        Self::create(path)
    }

    /// Makes sure that both can be written.
    pub fn create(path: &Path) -> anyhow::Result<Self> {
        let [svg, png] = paths(path)?.map(|path| {
            Draft::create(&path).map_err(|error| files::Error { action: "be written", ..error })
        });
        Ok(Self { svg: svg?, png: png? })
    }

    /// Draws both.
    pub fn draw(self, picture: &impl Picture) -> anyhow::Result<[PathBuf; 2]> {
        register_font(FONT, FontStyle::Normal, epaint_default_fonts::UBUNTU_LIGHT)
            .map_err(|_| anyhow!("the built-in font cannot be used"))?;
        let (width, height) = picture.size();
        let mut text = String::new();
        let area = SVGBackend::with_string(&mut text, (width, height)).into_drawing_area();
        picture.draw(&area, 1)?;
        drop(area);
        let (width, height) = (width * SCALE, height * SCALE);
        let mut pixels = vec![0; width as usize * height as usize * 3];
        let area = BitMapBackend::with_buffer(&mut pixels, (width, height)).into_drawing_area();
        picture.draw(&area, SCALE)?;
        drop(area);
        let Self { mut svg, mut png } = self;
        fill(&mut svg, |file| Ok(file.write_all(text.as_bytes())?))?;
        fill(&mut png, |file| write_png(file, width, height, &pixels))?;
        let drafts = [svg, png];
        files::publish_all(&drafts)?;
        Ok(drafts.each_ref().map(|draft| draft.path().to_path_buf()))
    }
}

/// Writes the content of a file.
fn fill(
    draft: &mut Draft,
    write: impl FnOnce(&mut Draft) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let path = draft.path().to_path_buf();
    write(draft).with_context(|| format!("{}: cannot be written", path.display()))
}

/// `pixels` are red, green and blue, row by row.
fn write_png(file: &mut Draft, width: u32, height: u32, pixels: &[u8]) -> anyhow::Result<()> {
    let mut encoder = png::Encoder::new(file, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::Best);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(pixels)?;
    Ok(writer.finish()?)
}

/// Length of a line in a legend, in units of the SVG.
pub const LEGEND_LINE: u32 = 30;

/// The dashes of a legend's line, number by number, in pixels from its left end: of one that is drawn
/// with dashes and gaps of so many units. Five are enough for any; those beyond the end lie on the first.
pub fn legend_dash(
    (dash, gap): (u32, u32),
    scale: u32,
    style: ShapeStyle,
) -> impl Fn(u32) -> PathElement<(i32, i32)> + Clone {
    move |number| {
        let from = Some(number * (dash + gap)).filter(|from| *from < LEGEND_LINE).unwrap_or(0);
        let to = (from + dash).min(LEGEND_LINE);
        PathElement::new([from, to].map(|x| ((x * scale) as i32, 0)), style)
    }
}

/// Lengths and letters of a picture that is drawn so many times as large as its units.
#[derive(Clone, Copy)]
pub struct Pen(pub u32);

impl Pen {
    /// A length in pixels.
    pub fn px(self, units: u32) -> i32 {
        (units * self.0) as i32
    }

    /// Letters of that height.
    pub fn text(self, units: u32) -> FontDesc<'static> {
        (FONT, self.px(units)).into_font()
    }
}

/// What went wrong while drawing.
pub fn undrawn<E: std::error::Error + Send + Sync>(
    error: DrawingAreaErrorKind<E>,
) -> anyhow::Error {
    anyhow!("cannot be drawn: {error}")
}

/// A large number in few letters.
pub fn short(number: f64) -> String {
    match number {
        ..1e3 => format!("{number:.0}"),
        1e3..1e6 => format!("{} K", trimmed(number / 1e3)),
        1e6..1e9 => format!("{} M", trimmed(number / 1e6)),
        _ => format!("{} B", trimmed(number / 1e9)),
    }
}

/// A number without needless zeros.
pub fn trimmed(value: f64) -> String {
    let text = format!("{value:.2}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_string(),
        false => text,
    }
}

/// Something that can be drawn on any kind of area.
pub trait Picture {
    /// Width and height, in units of the SVG.
    fn size(&self) -> (u32, u32) {
        (1200, 820)
    }

    /// Draws it, with everything `scale` times as large.
    fn draw<B: DrawingBackend>(
        &self,
        area: &DrawingArea<B, Shift>,
        scale: u32,
    ) -> anyhow::Result<()>
    where
        B::ErrorType: 'static;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_numbers_have_the_unit_that_suits_them() {
        let shown = [168.4, 2e3, 786_432.0, 1.5e6, 1e9, 1.21e9].map(short);
        assert_eq!(shown, ["168", "2 K", "786.43 K", "1.5 M", "1 B", "1.21 B"]);
    }
}
