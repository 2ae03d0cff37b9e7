//! Size against score (the paper's Figure 1): weights that pre-training kept, on a logarithmic
//! axis, against the score on test, with the paper's models and the baselines for reference.

use mediswift_model::finetune::compare::{Comparison, Scored, Series};
use plotters::coord::Shift;
use plotters::prelude::*;

use super::{COLOURS, LEGEND_LINE, Pen, Picture, legend_dash, short, undrawn};

/// Runs of one task.
pub struct Sizes<'a>(pub &'a Comparison);

/// Dashes and gaps of the baselines' lines, one after the other.
const DASHES: [(u32, u32); 4] = [(3, 5), (9, 5), (16, 6), (2, 2)];

impl Picture for Sizes<'_> {
    fn draw<B: DrawingBackend>(
        &self,
        area: &DrawingArea<B, Shift>,
        scale: u32,
    ) -> anyhow::Result<()>
    where
        B::ErrorType: 'static,
    {
        let pen = Pen(scale);
        let Self(runs) = self;
        let (ours, papers) = (runs.runs_by_size(), runs.published_by_size());
        let all = || ours.iter().chain(&papers).flat_map(|series| &series.points);
        let baselines: Vec<(&str, f64)> =
            runs.baselines.iter().map(|b| (&*b.name, 100.0 * b.scores[0].value)).collect();
        let ends = |p: &Scored| [p.score - p.std, p.score + p.std];
        let values = || all().flat_map(ends).chain(baselines.iter().map(|b| b.1));
        let left = all().map(|p| p.weights).fold(f64::INFINITY, f64::min) / 1.6;
        let right = all().map(|p| p.weights).fold(0.0, f64::max) * 1.6;
        let bottom = (values().fold(f64::INFINITY, f64::min) - 4.0).max(0.0).floor();
        let top = (values().fold(0.0, f64::max) + 4.0).min(100.0).ceil();

        area.fill(&WHITE).map_err(undrawn)?;
        let area = area.margin(pen.px(12), 0, 0, pen.px(8));
        let title = format!("{}: size of the pre-trained model against score", runs.task);
        let area = area.titled(&title, pen.text(26)).map_err(undrawn)?;
        let area = area.titled(&runs.split, pen.text(17)).map_err(undrawn)?;
        let seeds = "bars: standard deviation over seeds";
        let area = area.titled(seeds, pen.text(15)).map_err(undrawn)?;
        let mut chart = ChartBuilder::on(&area)
            .margin(pen.px(18))
            .x_label_area_size(pen.px(58))
            .y_label_area_size(pen.px(76))
            .build_cartesian_2d((left..right).log_scale(), bottom..top)
            .map_err(undrawn)?;
        chart
            .configure_mesh()
            .light_line_style(WHITE)
            .bold_line_style(BLACK.mix(0.12).stroke_width(scale))
            .axis_style(BLACK.stroke_width(scale))
            .x_desc("weights of linear layers that pre-training kept")
            .y_desc(format!("{} (%)", runs.metric))
            .x_label_formatter(&|x| short(*x))
            .label_style(pen.text(17))
            .axis_desc_style(pen.text(19))
            .draw()
            .map_err(undrawn)?;
        for ((name, value), (dash, gap)) in baselines.iter().zip(DASHES.into_iter().cycle()) {
            let style = BLACK.mix(0.6).stroke_width(scale);
            let ends = [(left, *value), (right, *value)];
            let (long, short) = (pen.px(dash) as u32, pen.px(gap) as u32);
            chart
                .draw_series(DashedLineSeries::new(ends, long, short, style))
                .map_err(undrawn)?
                .label(format!("{name}: {value:.1}"))
                .legend(move |(x, y)| {
                    let dash = legend_dash((dash, gap), scale, style);
                    EmptyElement::at((x, y)) + dash(0) + dash(1) + dash(2) + dash(3) + dash(4)
                });
        }
        let colours = || COLOURS.iter().cycle();
        let middle = pen.px(LEGEND_LINE / 2);
        let place = |point: &Scored| (point.weights, point.score);
        for (Series { name, points }, colour) in papers.iter().zip(colours()) {
            let style = colour.mix(0.45);
            let line = style.stroke_width(scale);
            chart.draw_series(LineSeries::new(points.iter().map(place), line)).map_err(undrawn)?;
            let marker = |point| TriangleMarker::new(place(point), pen.px(6), style.filled());
            chart.draw_series(points.iter().map(marker)).map_err(undrawn)?.label(name).legend(
                move |(x, y)| TriangleMarker::new((x + middle, y), pen.px(6), style.filled()),
            );
        }
        for (Series { name, points }, colour) in ours.iter().zip(colours()) {
            let mut points = points.clone();
            points.sort_by(|a, b| a.weights.total_cmp(&b.weights));
            let line = colour.stroke_width(2 * scale);
            chart.draw_series(LineSeries::new(points.iter().map(place), line)).map_err(undrawn)?;
            let bars = points.iter().filter(|point| point.std > 0.0);
            let bar = |point: &Scored| {
                PathElement::new(ends(point).map(|end| (point.weights, end)), line)
            };
            chart.draw_series(bars.clone().map(bar)).map_err(undrawn)?;
            for end in [0, 1] {
                let cap = |point: &Scored| {
                    let line = PathElement::new([(-pen.px(6), 0), (pen.px(6), 0)], line);
                    EmptyElement::at((point.weights, ends(point)[end])) + line
                };
                chart.draw_series(bars.clone().map(cap)).map_err(undrawn)?;
            }
            let marker = |point| Circle::new(place(point), pen.px(6), colour.filled());
            chart
                .draw_series(points.iter().map(marker))
                .map_err(undrawn)?
                .label(name)
                .legend(move |(x, y)| Circle::new((x + middle, y), pen.px(6), colour.filled()));
            let named = points.iter().filter_map(|point| {
                let name = point.name.clone()?;
                let text = Text::new(name, (pen.px(10), -pen.px(20)), pen.text(15));
                Some(EmptyElement::at(place(point)) + text)
            });
            chart.draw_series(named).map_err(undrawn)?;
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerRight)
            .margin(pen.px(14))
            .legend_area_size(pen.px(38))
            .background_style(WHITE.mix(0.9))
            .border_style(BLACK.mix(0.3))
            .label_font(pen.text(15))
            .draw()
            .map_err(undrawn)?;
        area.present().map_err(undrawn)
    }
}
