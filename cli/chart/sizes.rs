//! Size against score (the paper's Figure 1): weights that pre-training kept, on a logarithmic
//! axis, against the score on test, with the paper's models and the baselines for reference.

use anyhow::anyhow;
use mediswift_model::finetune::compare::{Comparison, Series};
use plotters::coord::Shift;
use plotters::prelude::*;

use super::{COLOURS, FONT, Picture};

/// Runs of one task.
pub struct Sizes<'a>(pub &'a Comparison);

impl Picture for Sizes<'_> {
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
        let Self(runs) = self;
        let (ours, papers) = (runs.runs_by_size(), runs.published_by_size());
        let all = || ours.iter().chain(&papers).flat_map(|series| &series.points);
        let baselines: Vec<(&str, f64)> =
            runs.baselines.iter().map(|b| (&*b.name, 100.0 * b.scores[0].value)).collect();
        let values = || all().map(|p| p.1).chain(baselines.iter().map(|b| b.1));
        let left = all().map(|p| p.0).fold(f64::INFINITY, f64::min) / 1.6;
        let right = all().map(|p| p.0).fold(0.0, f64::max) * 1.6;
        let bottom = (values().fold(f64::INFINITY, f64::min) - 4.0).max(0.0).floor();
        let top = (values().fold(0.0, f64::max) + 4.0).min(100.0).ceil();

        area.fill(&WHITE).map_err(fail)?;
        let area = area.margin(px(12), 0, 0, px(8));
        let title = format!("{}: size of the pre-trained model against score", runs.task);
        let area = area.titled(&title, text(26)).map_err(fail)?;
        let area = area.titled(&runs.split, text(17)).map_err(fail)?;
        let mut chart = ChartBuilder::on(&area)
            .margin(px(18))
            .x_label_area_size(px(58))
            .y_label_area_size(px(76))
            .build_cartesian_2d((left..right).log_scale(), bottom..top)
            .map_err(fail)?;
        chart
            .configure_mesh()
            .light_line_style(WHITE)
            .bold_line_style(BLACK.mix(0.12).stroke_width(scale))
            .axis_style(BLACK.stroke_width(scale))
            .x_desc("weights of linear layers that pre-training kept")
            .y_desc(format!("{} (%)", runs.metric))
            .x_label_formatter(&|x| format!("{} M", (x / 1e4).round() / 100.0))
            .label_style(text(17))
            .axis_desc_style(text(19))
            .draw()
            .map_err(fail)?;
        for ((name, value), dash) in baselines.iter().zip([3, 9]) {
            let style = BLACK.mix(0.6).stroke_width(scale);
            let ends = [(left, *value), (right, *value)];
            chart
                .draw_series(DashedLineSeries::new(ends, px(dash) as u32, px(5) as u32, style))
                .map_err(fail)?
                .label(format!("{name}: {value:.1}"))
                .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + px(30), y)], style));
        }
        let colours = || COLOURS.iter().cycle();
        for (Series { name, points }, colour) in papers.iter().zip(colours()) {
            let style = colour.mix(0.45);
            let line = style.stroke_width(scale);
            chart.draw_series(LineSeries::new(points.iter().copied(), line)).map_err(fail)?;
            chart
                .draw_series(
                    points.iter().map(|&at| TriangleMarker::new(at, px(6), style.filled())),
                )
                .map_err(fail)?
                .label(name)
                .legend(move |(x, y)| TriangleMarker::new((x + px(15), y), px(6), style.filled()));
        }
        for (Series { name, points }, colour) in ours.iter().zip(colours()) {
            let mut points = points.clone();
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            let line = colour.stroke_width(2 * scale);
            chart.draw_series(LineSeries::new(points.iter().copied(), line)).map_err(fail)?;
            chart
                .draw_series(points.iter().map(|&at| Circle::new(at, px(6), colour.filled())))
                .map_err(fail)?
                .label(name)
                .legend(move |(x, y)| Circle::new((x + px(15), y), px(6), colour.filled()));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerRight)
            .margin(px(14))
            .legend_area_size(px(38))
            .background_style(WHITE.mix(0.9))
            .border_style(BLACK.mix(0.3))
            .label_font(text(15))
            .draw()
            .map_err(fail)?;
        area.present().map_err(fail)
    }
}
