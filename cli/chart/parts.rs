//! Where the time of an optimiser step goes: a bar for each sparsity, part upon part.

use mediswift_model::bench::StepTimes;
use plotters::coord::Shift;
use plotters::prelude::*;

use super::{COLOURS, Pen, Picture, undrawn};

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
        let pen = Pen(scale);
        let bars: Vec<[f64; GROUPS.len()]> = self.rows.iter().map(milliseconds).collect();
        let longest = bars.iter().map(|bar| bar.iter().sum()).fold(f64::MIN_POSITIVE, f64::max);
        let count = self.rows.len() as f64;

        area.fill(&WHITE).map_err(undrawn)?;
        let area = area.margin(pen.px(12), 0, 0, pen.px(8));
        let area = area.titled(&self.title, pen.text(24)).map_err(undrawn)?;
        let height = area.dim_in_pixel().1 as i32;
        let (picture, below) = area.split_vertically(height - pen.px(4 * 28));
        let mut chart = ChartBuilder::on(&picture)
            .margin(pen.px(18))
            .x_label_area_size(pen.px(56))
            .y_label_area_size(pen.px(110))
            .build_cartesian_2d(0.0..1.25 * longest, count..0.0)
            .map_err(undrawn)?;
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
            .label_style(pen.text(16))
            .axis_desc_style(pen.text(18))
            .draw()
            .map_err(undrawn)?;
        for (row, (bar, times)) in bars.iter().zip(self.rows).enumerate() {
            let (top, bottom) = (row as f64 + 0.18, row as f64 + 0.82);
            let mut left = 0.0;
            for (part, colour) in bar.iter().zip(COLOURS) {
                let corners = [(left, top), (left + part, bottom)];
                left += part;
                let filled = Rectangle::new(corners, colour.filled());
                chart.draw_series([filled]).map_err(undrawn)?;
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
                .draw_series([
                    EmptyElement::at(at) + Text::new(total, (pen.px(8), -pen.px(9)), pen.text(17))
                ])
                .map_err(undrawn)?;
            let at = (0.0, row as f64 + 0.5);
            chart
                .plotting_area()
                .draw(
                    &(EmptyElement::at(at)
                        + Text::new(label, (-pen.px(110), -pen.px(9)), pen.text(17))),
                )
                .map_err(undrawn)?;
        }
        // Two columns below the bars.
        for (index, ((name, _), colour)) in GROUPS.iter().zip(COLOURS).enumerate() {
            let (x, y) =
                (pen.px(40) + pen.px(500) * (index % 2) as i32, pen.px(28) * (index / 2) as i32);
            let mark = Rectangle::new([(x, y), (x + pen.px(24), y + pen.px(14))], colour.filled());
            below.draw(&mark).map_err(undrawn)?;
            below.draw(&Text::new(*name, (x + pen.px(34), y), pen.text(17))).map_err(undrawn)?;
        }
        area.present().map_err(undrawn)
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
