//! Points of a study's arms in two of its columns, and the line of those that no other beats in both.

use mediswift_model::study::column::{Column, Spread};
use mediswift_model::study::report::Dot;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::losses::Axis;
use super::{COLOURS, Pen, Picture, short, trimmed, undrawn};

/// One point per arm.
pub struct Pareto {
    pub title: String,
    /// From left to right, and upwards.
    pub columns: [Column; 2],
    pub points: Vec<Dot>,
}

/// Room beside the data, as a fraction of its width.
const MARGIN: f64 = 0.08;

/// Width of the names on the right, in units of the SVG.
const NAMES: u32 = 380;

impl Pareto {
    /// What is drawn along an axis: from where to where, in a unit that is easy to read, and what it is.
    fn axis(&self, which: usize) -> (std::ops::Range<f64>, f64, String) {
        let spread = |dot: &Dot| if which == 0 { dot.x } else { dot.y };
        let ends = |dot: &Dot| {
            let Spread { mean, std, .. } = spread(dot);
            let std = std.unwrap_or(0.0);
            [mean - std, mean + std]
        };
        let ends: Vec<f64> = self.points.iter().flat_map(ends).collect();
        let low = ends.iter().copied().fold(f64::INFINITY, f64::min);
        let high = ends.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let column = &self.columns[which];
        let (unit, what) = match Axis::of_column(column) {
            Some(Axis::Hours) => {
                let (unit, what) = Axis::Hours.unit(high / 3600.0);
                (3600.0 * unit, what)
            }
            Some(axis) => axis.unit(high),
            None => match column {
                Column::Loss | Column::TrainLoss => {
                    (1.0, format!("{} (nats per token)", column.heading()))
                }
                column => (1.0, column.heading().to_string()),
            },
        };
        let room = MARGIN * (high - low).max(1e-3 * high.abs()).max(1e-9);
        ((low - room) / unit..(high + room) / unit, unit, what)
    }
}

impl Picture for Pareto {
    fn size(&self) -> (u32, u32) {
        (1200, 720)
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
        area.fill(&WHITE).map_err(undrawn)?;
        let area = area.margin(pen.px(12), 0, 0, pen.px(8));
        let area = area.titled(&self.title, pen.text(24)).map_err(undrawn)?;
        let width = area.dim_in_pixel().0 as i32;
        let (left, names) = area.split_horizontally(width - pen.px(NAMES));
        let ((x_range, x_unit, x_what), (y_range, y_unit, y_what)) = (self.axis(0), self.axis(1));
        let place = |dot: &Dot| (dot.x.mean / x_unit, dot.y.mean / y_unit);
        let mut chart = ChartBuilder::on(&left)
            .margin(pen.px(18))
            .x_label_area_size(pen.px(58))
            .y_label_area_size(pen.px(84))
            .build_cartesian_2d(x_range, y_range)
            .map_err(undrawn)?;
        let label = |value: &f64| match value.abs() {
            ..1e3 => trimmed(*value),
            _ => short(*value),
        };
        chart
            .configure_mesh()
            .light_line_style(WHITE)
            .bold_line_style(BLACK.mix(0.12).stroke_width(scale))
            .axis_style(BLACK.stroke_width(scale))
            .x_labels(7)
            .y_labels(8)
            .x_desc(x_what)
            .y_desc(y_what)
            .x_label_formatter(&label)
            .y_label_formatter(&label)
            .label_style(pen.text(16))
            .axis_desc_style(pen.text(18))
            .draw()
            .map_err(undrawn)?;
        let mut best: Vec<(f64, f64)> =
            self.points.iter().filter(|dot| dot.is_best).map(place).collect();
        best.sort_by(|a, b| a.0.total_cmp(&b.0));
        let line = BLACK.mix(0.3).stroke_width(2 * scale);
        chart.draw_series(LineSeries::new(best, line)).map_err(undrawn)?;
        for (dot, colour) in self.points.iter().zip(COLOURS.iter().cycle()) {
            let (x, y) = place(dot);
            let style = colour.stroke_width(2 * scale);
            let bar = |from, to| PathElement::new([from, to], style);
            let across = dot.x.std.map(|std| std / x_unit).map(|s| bar((x - s, y), (x + s, y)));
            let along = dot.y.std.map(|std| std / y_unit).map(|s| bar((x, y - s), (x, y + s)));
            chart.draw_series(across.into_iter().chain(along)).map_err(undrawn)?;
        }
        for (index, (dot, colour)) in self.points.iter().zip(COLOURS.iter().cycle()).enumerate() {
            let marker = [(place(dot), colour)].into_iter();
            let size = pen.px(7);
            // Colours come again after the last one, in another shape.
            match (index / COLOURS.len()) % 2 {
                0 => chart.draw_series(marker.map(|(at, c)| Circle::new(at, size, c.filled()))),
                _ => chart
                    .draw_series(marker.map(|(at, c)| TriangleMarker::new(at, size, c.filled()))),
            }
            .map_err(undrawn)?;
        }
        let style = TextStyle::from(pen.text(17)).pos(Pos::new(HPos::Left, VPos::Center));
        for (index, (dot, colour)) in self.points.iter().zip(COLOURS.iter().cycle()).enumerate() {
            let (mark, y) = (pen.px(12), pen.px(40 + 28 * index as u32));
            let size = pen.px(7);
            match (index / COLOURS.len()) % 2 {
                0 => names.draw(&Circle::new((mark, y), size, colour.filled())),
                _ => names.draw(&TriangleMarker::new((mark, y), size, colour.filled())),
            }
            .map_err(undrawn)?;
            let text = Text::new(dot.label.clone(), (pen.px(28), y + pen.px(2)), style.clone());
            names.draw(&text).map_err(undrawn)?;
        }
        let grey = BLACK.mix(0.6);
        let y = pen.px(40 + 28 * self.points.len() as u32);
        let key = "line: none is better in both; bars: deviation over seeds";
        let style =
            TextStyle::from(pen.text(13)).color(&grey).pos(Pos::new(HPos::Left, VPos::Center));
        names.draw(&Text::new(key, (pen.px(6), y), style)).map_err(undrawn)?;
        area.present().map_err(undrawn)
    }
}
