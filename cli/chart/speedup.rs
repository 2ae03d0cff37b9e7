//! Realised against theoretical speedup of sparse layers: the paper's Figure 3, from what
//! `bench layer --json` prints.
//!
//! Both axes are logarithmic and the horizontal one is 1/(1 − s), marked with the sparsities s, so
//! theory is the diagonal and the distance below it is what is lost.

use std::ops::Range;

use anyhow::anyhow;
use mediswift_kernels::Precision;
use plotters::coord::Shift;
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint};
use plotters::prelude::*;
use serde::Deserialize;

use super::{COLOURS, LEGEND_LINE, Pen, Picture, legend_dash, trimmed, undrawn};
use crate::machine::DISTURBED;

/// A measurement, as far as the picture needs it.
#[derive(Deserialize)]
pub struct Speedups {
    cpu: String,
    isa: String,
    /// Measurements of before there was a choice are of `f32`.
    #[serde(default)]
    precision: Precision,
    threads: usize,
    tokens: usize,
    mask: String,
    rows: Vec<Row>,
    geometric_means: Vec<Mean>,
    /// Largest share of the CPUs that others took, where it was measured.
    #[serde(default)]
    load: Option<f64>,
}

/// One product of one layer.
#[derive(Deserialize)]
struct Row {
    shape: String,
    product: String,
    realised_speedup: f64,
    theoretical_speedup: f64,
}

/// One product at one sparsity, over all layers.
#[derive(Deserialize)]
struct Mean {
    product: String,
    realised_speedup: f64,
    theoretical_speedup: f64,
    ceiling_speedup: f64,
}

/// A curve: (1/(1 − s), speedup) in log₂.
type Curve = Vec<(f64, f64)>;

impl Speedups {
    /// One line about machine and work.
    fn subtitle(&self) -> String {
        let threads = match self.threads {
            1 => "1 thread".into(),
            n => format!("{n} threads"),
        };
        let Self { cpu, isa, precision, tokens, mask, .. } = self;
        let isa = isa.to_uppercase();
        format!("{cpu}, {isa}, {precision}, {threads}, {tokens} tokens, {mask} mask")
    }

    /// What to know before one believes it.
    fn remark(&self) -> String {
        let load = match self.load {
            Some(load) if load > DISTURBED => {
                format!("; others took up to {:.0} % of the CPUs meanwhile", 100.0 * load)
            }
            _ => String::new(),
        };
        format!(
            "the ceiling lies above theory where dense code misses the peak of the machine{load}"
        )
    }

    /// The product to draw: the whole step, or the first there is.
    fn product(&self) -> anyhow::Result<&str> {
        let products = || self.geometric_means.iter().map(|mean| mean.product.as_str());
        let step = products().find(|product| *product == "step");
        step.or_else(|| products().next()).ok_or_else(|| anyhow!("there is no measurement in it"))
    }
}

impl Picture for Speedups {
    fn draw<B: DrawingBackend>(
        &self,
        area: &DrawingArea<B, Shift>,
        scale: u32,
    ) -> anyhow::Result<()>
    where
        B::ErrorType: 'static,
    {
        draw(area, self, scale)
    }
}

fn draw<B: DrawingBackend>(
    area: &DrawingArea<B, Shift>,
    measured: &Speedups,
    scale: u32,
) -> anyhow::Result<()>
where
    B::ErrorType: 'static,
{
    let pen = Pen(scale);

    let product = measured.product()?;
    let point = |theory: f64, speedup: f64| (theory.log2(), speedup.log2());
    let mut shapes: Vec<(String, Curve)> = Vec::new();
    for row in measured.rows.iter().filter(|row| row.product == product) {
        let name = row.shape.replace('x', " × ");
        let point = point(row.theoretical_speedup, row.realised_speedup);
        match shapes.iter_mut().find(|(known, _)| *known == name) {
            Some((_, curve)) => curve.push(point),
            None => shapes.push((name, vec![point])),
        }
    }
    let means = || measured.geometric_means.iter().filter(|mean| mean.product == product);
    let mean: Curve = means().map(|m| point(m.theoretical_speedup, m.realised_speedup)).collect();
    let ceiling: Curve = means().map(|m| point(m.theoretical_speedup, m.ceiling_speedup)).collect();

    let all = || shapes.iter().flat_map(|(_, curve)| curve).chain(&ceiling);
    let right = all().map(|p| p.0).fold(1.0, f64::max) + 0.15;
    let top = all().map(|p| p.1).fold(right, f64::max) + 0.25;
    let bottom = all().map(|p| p.1).fold(0.0, f64::min).floor() - 0.25;

    area.fill(&WHITE).map_err(undrawn)?;
    let what = match product {
        "step" => "Sparse layer, whole step (forward + dx + dw + refresh)".to_string(),
        product => format!("Sparse layer, {product}"),
    };
    let area = area.margin(pen.px(12), 0, 0, pen.px(8));
    let area = area.titled(&what, pen.text(26)).map_err(undrawn)?;
    let area = area.titled(&measured.subtitle(), pen.text(17)).map_err(undrawn)?;
    let area = area.titled(&measured.remark(), pen.text(15)).map_err(undrawn)?;
    let marks = [0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999];
    let x_marks: Vec<f64> = marks.iter().map(|s: &f64| -(1.0 - s).log2()).collect();
    let y_marks: Vec<f64> = (-4..12).map(f64::from).collect();
    let mut chart = ChartBuilder::on(&area)
        .margin(pen.px(18))
        .x_label_area_size(pen.px(58))
        .y_label_area_size(pen.px(76))
        .build_cartesian_2d(
            Marked { range: -0.12..right, marks: x_marks },
            Marked { range: bottom..top, marks: y_marks },
        )
        .map_err(undrawn)?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .bold_line_style(BLACK.mix(0.12).stroke_width(scale))
        .axis_style(BLACK.stroke_width(scale))
        .x_desc("sparsity (scale: 1 / (1 − sparsity))")
        .y_desc("speedup over the best dense code (×)")
        .x_label_formatter(&|x| format!("{} %", trimmed(100.0 * (1.0 - (-x).exp2()))))
        .y_label_formatter(&|y| trimmed(y.exp2()))
        .label_style(pen.text(17))
        .axis_desc_style(pen.text(19))
        .draw()
        .map_err(undrawn)?;

    let legend = |style: ShapeStyle| {
        move |(x, y): (i32, i32)| {
            PathElement::new(vec![(x, y), (x + pen.px(LEGEND_LINE), y)], style)
        }
    };
    let theory = BLACK.stroke_width(2 * scale);
    let far = right.min(top);
    chart
        .draw_series(DashedLineSeries::new(
            [(0.0, 0.0), (far, far)],
            pen.px(9) as u32,
            pen.px(6) as u32,
            theory,
        ))
        .map_err(undrawn)?
        .label("theory, 1 / (1 − sparsity)")
        .legend(move |(x, y)| {
            let dash = legend_dash((9, 6), scale, theory);
            EmptyElement::at((x, y)) + dash(0) + dash(1) + dash(2) + dash(3) + dash(4)
        });
    let even = BLACK.mix(0.55).stroke_width(scale);
    chart
        .draw_series(LineSeries::new([(-0.12, 0.0), (right, 0.0)], even))
        .map_err(undrawn)?
        .label("as fast as dense")
        .legend(legend(even));
    let limit = RGBColor(200, 30, 30).stroke_width(2 * scale);
    chart
        .draw_series(DashedLineSeries::new(ceiling, pen.px(3) as u32, pen.px(4) as u32, limit))
        .map_err(undrawn)?
        .label("physical ceiling: FMA ports and L1 loads")
        .legend(move |(x, y)| {
            let dash = legend_dash((3, 4), scale, limit);
            EmptyElement::at((x, y)) + dash(0) + dash(1) + dash(2) + dash(3) + dash(4)
        });
    for ((name, curve), colour) in shapes.iter().zip(COLOURS.iter().cycle()) {
        let style = colour.stroke_width(2 * scale);
        let marker = move |at: (f64, f64)| Circle::new(at, pen.px(4), colour.filled());
        chart
            .draw_series(LineSeries::new(curve.iter().copied(), style))
            .map_err(undrawn)?
            .label(format!("{name} (out × in)"))
            .legend(move |(x, y)| {
                EmptyElement::at((x, y))
                    + PathElement::new(vec![(0, 0), (pen.px(30), 0)], style)
                    + Circle::new((pen.px(15), 0), pen.px(4), colour.filled())
            });
        chart.draw_series(curve.iter().map(|&at| marker(at))).map_err(undrawn)?;
    }
    if shapes.len() > 1 {
        let style = BLACK.stroke_width(3 * scale);
        chart
            .draw_series(LineSeries::new(mean, style))
            .map_err(undrawn)?
            .label("geometric mean over the shapes")
            .legend(legend(style));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .margin(pen.px(14))
        .legend_area_size(pen.px(38))
        .background_style(WHITE.mix(0.9))
        .border_style(BLACK.mix(0.3))
        .label_font(pen.text(17))
        .draw()
        .map_err(undrawn)?;
    area.present().map_err(undrawn)
}

/// An axis with marks at given places.
struct Marked {
    range: Range<f64>,
    marks: Vec<f64>,
}

impl Ranged for Marked {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let share = (value - self.range.start) / (self.range.end - self.range.start);
        limit.0 + (share * f64::from(limit.1 - limit.0)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.marks.iter().copied().filter(|mark| self.range.contains(mark)).collect()
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}
