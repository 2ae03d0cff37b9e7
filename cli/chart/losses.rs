//! Loss curves of training runs: the paper's Figure 2.
//!
//! The same losses against tokens, operations and time; what a sparse run loses per token it may win
//! back per operation and per hour.

use anyhow::anyhow;
use mediswift_model::curves::{Curves, Point};
use mediswift_model::study::column::Column;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::{COLOURS, Pen, Picture, trimmed, undrawn};

/// No line has more points: nobody sees them.
const POINTS: usize = 800;

/// Fraction of a run from which its whole curve should be in the picture: before, it falls so far
/// that nothing else would be seen.
const SHOWN_FROM: f64 = 0.08;

/// What a loss is drawn against.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Axis {
    /// Tokens trained on
    Tokens,
    /// Floating-point operations executed
    Flops,
    /// Time spent computing training steps
    Hours,
}

impl Axis {
    /// Every axis, in the order of the panels.
    pub const ALL: [Axis; 3] = [Axis::Tokens, Axis::Flops, Axis::Hours];

    /// The axis of a study's column, if losses can be drawn against it.
    pub fn of_column(column: &Column) -> Option<Self> {
        match column {
            Column::Tokens => Some(Axis::Tokens),
            Column::Flops => Some(Axis::Flops),
            Column::Seconds => Some(Axis::Hours),
            _ => None,
        }
    }

    fn of(self, point: &Point) -> f64 {
        match self {
            Axis::Tokens => point.tokens,
            Axis::Flops => point.flops,
            Axis::Hours => point.hours,
        }
    }

    /// The unit in which values up to `most` are easy to read, and what to write below the axis.
    pub fn unit(self, most: f64) -> (f64, String) {
        match self {
            Axis::Tokens if most >= 1e9 => (1e9, "tokens (billions)".into()),
            Axis::Tokens if most >= 1e6 => (1e6, "tokens (millions)".into()),
            Axis::Tokens => (1e3, "tokens (thousands)".into()),
            Axis::Flops => {
                let power = most.log10().floor();
                let digits = power.to_string().chars().map(superscript).collect::<String>();
                (10f64.powf(power), format!("training operations (10{digits} FLOP)"))
            }
            Axis::Hours if most >= 48.0 => (24.0, "computing time (days)".into()),
            Axis::Hours if most >= 2.0 => (1.0, "computing time (hours)".into()),
            Axis::Hours if most >= 2.0 / 60.0 => (1.0 / 60.0, "computing time (minutes)".into()),
            Axis::Hours => (1.0 / 3600.0, "computing time (seconds)".into()),
        }
    }
}

fn superscript(digit: char) -> char {
    digit
        .to_digit(10)
        .map_or(digit, |digit| ['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹'][digit as usize])
}

/// Loss curves of several runs, against one axis or several side by side.
pub struct Losses {
    pub title: String,
    pub runs: Vec<Curves>,
    pub axes: Vec<Axis>,
}

impl Losses {
    /// Losses to show: from below the lowest to where curves are after a small part of their run.
    fn range(&self) -> (f64, f64) {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for run in &self.runs {
            let smoothed = run.smoothed();
            let first = (SHOWN_FROM * smoothed.len() as f64) as usize;
            for point in smoothed[first..].iter().chain(&run.validation) {
                low = low.min(point.loss);
            }
            high = high.max(smoothed[first].loss);
        }
        let margin = 0.05 * (high - low).max(0.01);
        (low - margin, high + margin)
    }
}

impl Picture for Losses {
    fn size(&self) -> (u32, u32) {
        match self.axes.len() {
            1 => (1000, 770),
            panels => (560 * panels as u32, 690),
        }
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
        let area = area.margin(pen.px(12), 0, 0, 0);
        let area = area.titled(&self.title, pen.text(24)).map_err(undrawn)?;
        let legend = Legend::new(&area, self, scale)?;
        let height = area.dim_in_pixel().1 as i32;
        let (panels, below) = area.split_vertically(height - legend.height() - pen.px(14));
        for (index, panel) in panels.split_evenly((1, self.axes.len())).iter().enumerate() {
            self.panel(panel, self.axes[index], index == 0, scale)?;
        }
        legend.draw(&below, self)?;
        area.present().map_err(undrawn)
    }
}

impl Losses {
    fn panel<B: DrawingBackend>(
        &self,
        area: &DrawingArea<B, Shift>,
        axis: Axis,
        named: bool,
        scale: u32,
    ) -> anyhow::Result<()>
    where
        B::ErrorType: 'static,
    {
        let pen = Pen(scale);
        let lasts = self.runs.iter().filter_map(|run| run.training.last());
        let most = lasts.map(|point| axis.of(point)).fold(f64::MIN_POSITIVE, f64::max);
        let (unit, what) = axis.unit(most);
        let (low, high) = self.range();
        let place = |point: &Point| (axis.of(point) / unit, point.loss);

        let mut chart = ChartBuilder::on(area)
            .margin(pen.px(14))
            .margin_right(pen.px(26))
            .x_label_area_size(pen.px(56))
            .y_label_area_size(pen.px(if named { 78 } else { 56 }))
            .build_cartesian_2d(0.0..1.02 * most / unit, low..high)
            .map_err(undrawn)?;
        let mut mesh = chart.configure_mesh();
        mesh.light_line_style(WHITE)
            .bold_line_style(BLACK.mix(0.12).stroke_width(scale))
            .axis_style(BLACK.stroke_width(scale))
            .set_tick_mark_size(LabelAreaPosition::Bottom, pen.px(6))
            .set_tick_mark_size(LabelAreaPosition::Left, pen.px(6))
            .x_labels(6)
            .y_labels(8)
            .x_desc(what)
            .x_label_formatter(&|x| trimmed(*x))
            .y_label_formatter(&|y| trimmed(*y))
            .label_style(pen.text(16))
            .axis_desc_style(pen.text(18));
        if named {
            mesh.y_desc("loss (nats per token)");
        }
        mesh.draw().map_err(undrawn)?;

        for (run, colour) in self.runs.iter().zip(COLOURS.iter().cycle()) {
            let training = visible(run.smoothed().iter().map(place), high);
            let thin = colour.mix(0.55).stroke_width(scale + scale / 2);
            chart.draw_series(LineSeries::new(thinned(training), thin)).map_err(undrawn)?;
            let validation = visible(run.validation.iter().map(place), high);
            let thick = colour.stroke_width(2 * scale + scale / 2);
            chart
                .draw_series(LineSeries::new(validation.iter().copied(), thick))
                .map_err(undrawn)?;
            let marker = |&at: &(f64, f64)| Circle::new(at, pen.px(4), colour.filled());
            chart.draw_series(validation.iter().map(marker)).map_err(undrawn)?;
        }
        Ok(())
    }
}

/// The part of a curve from where it first comes below `high`.
fn visible(points: impl Iterator<Item = (f64, f64)>, high: f64) -> Vec<(f64, f64)> {
    points.skip_while(|point| point.1 > high).map(|(x, loss)| (x, loss.min(high))).collect()
}

/// Evenly chosen points, the last among them.
fn thinned(points: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    let step = points.len().div_ceil(POINTS).max(1);
    let last = points.len().wrapping_sub(1);
    let chosen = |&(index, _): &(usize, (f64, f64))| index % step == 0 || index == last;
    points.into_iter().enumerate().filter(chosen).map(|(_, point)| point).collect()
}

/// One entry per run below the panels, in as many lines as they need.
struct Legend {
    /// Entry, left edge and line.
    places: Vec<(i32, i32)>,
    lines: i32,
    scale: u32,
}

impl Legend {
    const SIZE: u32 = 17;
    const LINE: u32 = 28;
    const MARK: u32 = 34;
    const GAP: u32 = 34;
    const MARGIN: u32 = 30;
    const KEY: &str = "thick, with points: validation; thin: training, smoothed";

    /// Lays out the entries of a picture.
    fn new<B: DrawingBackend>(
        area: &DrawingArea<B, Shift>,
        losses: &Losses,
        scale: u32,
    ) -> anyhow::Result<Self>
    where
        B::ErrorType: 'static,
    {
        let pen = Pen(scale);
        let style = TextStyle::from(pen.text(Self::SIZE));
        let right = area.dim_in_pixel().0 as i32 - pen.px(Self::MARGIN);
        let (mut x, mut line, mut places) = (pen.px(Self::MARGIN), 0, Vec::new());
        for run in &losses.runs {
            let size = area.estimate_text_size(&run.label, &style);
            let (width, _) = size.map_err(|error| anyhow!("cannot be drawn: {error}"))?;
            let width = pen.px(Self::MARK) + width as i32;
            if x + width > right && x > pen.px(Self::MARGIN) {
                (x, line) = (pen.px(Self::MARGIN), line + 1);
            }
            places.push((x, line));
            x += width + pen.px(Self::GAP);
        }
        // The key has a line of its own.
        Ok(Self { places, lines: line + 2, scale })
    }

    fn height(&self) -> i32 {
        self.lines * (Self::LINE * self.scale) as i32
    }

    fn draw<B: DrawingBackend>(
        &self,
        area: &DrawingArea<B, Shift>,
        losses: &Losses,
    ) -> anyhow::Result<()>
    where
        B::ErrorType: 'static,
    {
        let pen = Pen(self.scale);
        let style = TextStyle::from(pen.text(Self::SIZE)).pos(Pos::new(HPos::Left, VPos::Center));
        let middle = |line: i32| line * pen.px(Self::LINE) + pen.px(Self::LINE) / 2;
        for ((run, colour), &(x, line)) in
            losses.runs.iter().zip(COLOURS.iter().cycle()).zip(&self.places)
        {
            // Letters stand a little above the middle of their line.
            let (y, mark) = (middle(line), middle(line) - pen.px(2));
            let stroke = colour.stroke_width(2 * self.scale + self.scale / 2);
            area.draw(&PathElement::new([(x, mark), (x + pen.px(24), mark)], stroke))
                .map_err(undrawn)?;
            area.draw(&Circle::new((x + pen.px(12), mark), pen.px(4), colour.filled()))
                .map_err(undrawn)?;
            area.draw(&Text::new(run.label.clone(), (x + pen.px(Self::MARK), y), style.clone()))
                .map_err(undrawn)?;
        }
        let grey = BLACK.mix(0.6);
        let style = style.color(&grey);
        let key = Text::new(Self::KEY, (pen.px(Self::MARGIN), middle(self.lines - 1)), style);
        area.draw(&key).map_err(undrawn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_curves_are_thinned_and_high_beginnings_left_out() {
        let points: Vec<(f64, f64)> = (0..4001).map(|i| (f64::from(i), 1.0)).collect();
        let thin = thinned(points);
        assert!(thin.len() <= POINTS + 1 && thin[thin.len() - 1].0 == 4000.0);
        let shown = visible([(0.0, 9.0), (1.0, 3.0), (2.0, 5.0)].into_iter(), 4.0);
        assert_eq!(shown, [(1.0, 3.0), (2.0, 4.0)]);
    }

    #[test]
    fn units_suit_the_values() {
        let unit = |axis: Axis, most| axis.unit(most);
        assert_eq!(unit(Axis::Tokens, 3e7), (1e6, "tokens (millions)".into()));
        assert_eq!(unit(Axis::Flops, 2.5e14).1, "training operations (10¹⁴ FLOP)");
        assert_eq!(unit(Axis::Hours, 0.5).1, "computing time (minutes)");
        assert_eq!(unit(Axis::Hours, 100.0), (24.0, "computing time (days)".into()));
    }
}
