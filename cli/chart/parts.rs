//! Where the time of an optimiser step goes: a bar for each sparsity, part upon part.

use anyhow::anyhow;
use mediswift_model::bench::StepTimes;
use plotters::coord::Shift;
use plotters::prelude::*;

use super::{COLOURS, FONT, Picture};

/// Measured steps.
pub struct Parts<'a> {
    pub title: String,
    pub rows: &'a [StepTimes],
}

/// What a bar is made of, from the left: a name, and what the names of such parts contain. The first
/// that fits counts.
const GROUPS: [(&str, &[&str]); 7] = [
    ("linear layers, forward", &["linear forward"]),
    ("linear layers, backward", &["linear backward"]),
    ("output head, forward", &["output head forward"]),
    ("output head, backward", &["output head backward"]),
    ("attention", &["attention"]),
    ("gradient sums and norm, AdamW, packing", &["gradient", "AdamW", "packing"]),
    ("norms, GELU, residuals, embeddings", &[""]),
];

/// The group that a part belongs to.
fn group(part: &str) -> usize {
    let fits = |(_, names): &(&str, &[&str])| names.iter().any(|name| part.contains(name));
    GROUPS.iter().position(fits).expect("the last group takes all that is left")
}

/// Milliseconds of every group.
fn milliseconds(times: &StepTimes) -> [f64; GROUPS.len()] {
    let mut sums = [0.0; GROUPS.len()];
    times.parts.iter().for_each(|part| sums[group(&part.name)] += 1e3 * part.seconds);
    sums
}

impl Picture for Parts<'_> {
    fn size(&self) -> (u32, u32) {
        (1100, 330 + 90 * self.rows.len() as u32)
    }

    fn draw<B: DrawingBackend>(
        &self,
        area: &DrawingArea<B, Shift>,
        scale: u32,
    ) -> anyhow::Result<()>
    where
        B::ErrorType: 'static,
    {
        let px = |units: u32| (units * scale) as i32;
        let text = |units: u32| (FONT, px(units)).into_font();
        let fail = |error: DrawingAreaErrorKind<B::ErrorType>| anyhow!("cannot be drawn: {error}");
        let bars: Vec<[f64; GROUPS.len()]> = self.rows.iter().map(milliseconds).collect();
        let longest = bars.iter().map(|bar| bar.iter().sum()).fold(f64::MIN_POSITIVE, f64::max);
        let count = self.rows.len() as f64;

        area.fill(&WHITE).map_err(fail)?;
        let area = area.margin(px(12), 0, 0, px(8));
        let area = area.titled(&self.title, text(24)).map_err(fail)?;
        let height = area.dim_in_pixel().1 as i32;
        let (picture, below) = area.split_vertically(height - px(4 * 28));
        let mut chart = ChartBuilder::on(&picture)
            .margin(px(18))
            .x_label_area_size(px(56))
            .y_label_area_size(px(110))
            .build_cartesian_2d(0.0..1.25 * longest, count..0.0)
            .map_err(fail)?;
        chart
            .configure_mesh()
            .light_line_style(WHITE)
            .bold_line_style(BLACK.mix(0.12).stroke_width(scale))
            .axis_style(BLACK.stroke_width(scale))
            .disable_y_mesh()
            .y_labels(0)
            .x_labels(8)
            .x_desc("milliseconds of a mean step")
            .x_label_formatter(&|x| format!("{x:.0}"))
            .label_style(text(16))
            .axis_desc_style(text(18))
            .draw()
            .map_err(fail)?;
        for (row, (bar, times)) in bars.iter().zip(self.rows).enumerate() {
            let (top, bottom) = (row as f64 + 0.18, row as f64 + 0.82);
            let mut left = 0.0;
            for (part, colour) in bar.iter().zip(COLOURS) {
                let corners = [(left, top), (left + part, bottom)];
                left += part;
                let filled = Rectangle::new(corners, colour.filled());
                chart.draw_series([filled]).map_err(fail)?;
            }
            let speedup = times.realised_speedup(&self.rows[0]);
            let total = match row {
                0 => format!("median {:.1} ms", 1e3 * times.seconds),
                _ => format!("median {:.1} ms, {speedup:.2}×", 1e3 * times.seconds),
            };
            let label = match times.sparsity {
                0.0 => "dense".to_string(),
                sparsity => format!("{:.0} % sparse", 100.0 * sparsity),
            };
            let at = (left, row as f64 + 0.5);
            chart
                .draw_series([EmptyElement::at(at) + Text::new(total, (px(8), -px(9)), text(17))])
                .map_err(fail)?;
            let at = (0.0, row as f64 + 0.5);
            chart
                .plotting_area()
                .draw(&(EmptyElement::at(at) + Text::new(label, (-px(110), -px(9)), text(17))))
                .map_err(fail)?;
        }
        // Two columns below the bars.
        for (index, ((name, _), colour)) in GROUPS.iter().zip(COLOURS).enumerate() {
            let (x, y) = (px(40) + px(500) * (index % 2) as i32, px(28) * (index / 2) as i32);
            let mark = Rectangle::new([(x, y), (x + px(24), y + px(14))], colour.filled());
            below.draw(&mark).map_err(fail)?;
            below.draw(&Text::new(*name, (x + px(34), y), text(17))).map_err(fail)?;
        }
        area.present().map_err(fail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_a_step_has_its_group() {
        for (part, expected) in [
            ("sparse linear forward", 0),
            ("dense linear backward", 1),
            ("output head forward", 2),
            ("output head backward", 3),
            ("attention forward", 4),
            ("gradient norm", 5),
            ("packing", 5),
            ("layer norm backward", 6),
        ] {
            assert_eq!(group(part), expected, "{part}");
        }
    }
}
