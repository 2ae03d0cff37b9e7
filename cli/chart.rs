//! Pictures as SVG and PNG.

pub mod losses;
pub mod sizes;
pub mod speedup;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::{FontStyle, register_font};

use crate::verb::Exit;

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

/// The two files of one chart.
pub struct Files {
    svg: PathBuf,
    png: PathBuf,
}

impl Files {
    /// Makes sure that both can be written.
    pub fn create(path: &Path) -> anyhow::Result<Self> {
        let ending = path.extension().and_then(|ending| ending.to_str());
        if !matches!(ending, Some("svg" | "png")) {
            let message = format!("{}: name a chart .svg or .png", path.display());
            return Err(Exit::usage(message).into());
        }
        let files = Self { svg: path.with_extension("svg"), png: path.with_extension("png") };
        for path in [&files.svg, &files.png] {
            fs::OpenOptions::new()
                .append(true)
                .create(true)
                .open(path)
                .with_context(|| format!("{}: cannot be written", path.display()))?;
        }
        Ok(files)
    }

    /// Draws both.
    pub fn draw(&self, picture: &impl Picture) -> anyhow::Result<[PathBuf; 2]> {
        register_font(FONT, FontStyle::Normal, epaint_default_fonts::UBUNTU_LIGHT)
            .map_err(|_| anyhow!("the built-in font cannot be used"))?;
        let size = picture.size();
        let svg = SVGBackend::new(&self.svg, size).into_drawing_area();
        picture.draw(&svg, 1).with_context(|| self.svg.display().to_string())?;
        let size = (size.0 * SCALE, size.1 * SCALE);
        let png = BitMapBackend::new(&self.png, size).into_drawing_area();
        picture.draw(&png, SCALE).with_context(|| self.png.display().to_string())?;
        Ok([self.svg.clone(), self.png.clone()])
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
