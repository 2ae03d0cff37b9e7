//! Training on many machines, predicted: tokens per second above, efficiency below, a column for each model.
//!
//! Machines are on a logarithmic axis, and so are tokens, where perfect scaling is a straight line.

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::{COLOURS, Pen, Picture, short, trimmed, undrawn};

/// What is predicted.
pub struct Scaling {
    /// What was measured, and where.
    pub subtitle: String,
    /// What dashed and solid lines are.
    pub dashed: String,
    pub solid: String,
    /// Speeds of links, in the order of colours.
    pub gbit: Vec<f64>,
    /// Names of models with their curves.
    pub panels: Vec<(String, Vec<Curve>)>,
}

/// One model on links of one speed.
pub struct Curve {
    pub gbit: f64,
    pub is_dashed: bool,
    /// Machines, tokens per second, efficiency.
    pub points: Vec<(f64, f64, f64)>,
}

/// What a row of panels shows.
#[derive(Clone, Copy, PartialEq)]
enum Row {
    Tokens,
    Efficiency,
}

impl Picture for Scaling {
    fn size(&self) -> (u32, u32) {
        (110 + 400 * self.panels.len().max(2) as u32, 900)
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
        let title = "One training over many machines: predicted";
        let area = area.titled(title, pen.text(24)).map_err(undrawn)?;
        let mut area = area;
        for line in broken(&self.subtitle, 65 * self.panels.len().max(2)) {
            area = area.titled(&line, pen.text(15)).map_err(undrawn)?;
        }
        let height = area.dim_in_pixel().1 as i32;
        let (panels, below) = area.split_vertically(height - pen.px(66));
        let (above, under) = panels.split_vertically(panels.dim_in_pixel().1 as i32 / 2);
        for (row, area) in [(Row::Tokens, above), (Row::Efficiency, under)] {
            for (at, panel) in area.split_evenly((1, self.panels.len())).iter().enumerate() {
                self.panel(panel, at, row, scale)?;
            }
        }
        self.legend(&below, scale).map_err(undrawn)?;
        area.present().map_err(undrawn)
    }
}

impl Scaling {
    fn panel<B: DrawingBackend>(
        &self,
        area: &DrawingArea<B, Shift>,
        at: usize,
        row: Row,
        scale: u32,
    ) -> anyhow::Result<()>
    where
        B::ErrorType: 'static,
    {
        let pen = Pen(scale);
        let (model, curves) = &self.panels[at];
        let points = || curves.iter().flat_map(|curve| &curve.points);
        let most = points().map(|p| p.0).fold(2.0, f64::max);
        let least = points().map(|p| p.0).fold(most, f64::min);
        let (bottom, top) = match row {
            Row::Efficiency => (0.0, 105.0),
            Row::Tokens => {
                let low = points().map(|p| p.1).fold(f64::INFINITY, f64::min);
                let high = points().map(|p| p.1).fold(1.0, f64::max);
                (low.min(high).log10() - 0.1, high.log10() + 0.15)
            }
        };
        let place = |&(machines, tokens, efficiency): &(f64, f64, f64)| match row {
            Row::Tokens => (machines.log2(), tokens.log10()),
            Row::Efficiency => (machines.log2(), 100.0 * efficiency),
        };
        let mut chart = ChartBuilder::on(area)
            .margin(pen.px(12))
            .margin_right(pen.px(20))
            .caption(if row == Row::Tokens { model } else { "" }, pen.text(20))
            .x_label_area_size(pen.px(52))
            .y_label_area_size(pen.px(74))
            .build_cartesian_2d(least.log2() - 0.1..most.log2() + 0.2, bottom..top)
            .map_err(undrawn)?;
        let marks = (most / least).log2().round() as usize + 1;
        let label = |y: &f64| match row {
            Row::Tokens => short(10f64.powf(*y)),
            Row::Efficiency => format!("{y:.0} %"),
        };
        let mut mesh = chart.configure_mesh();
        mesh.light_line_style(WHITE)
            .bold_line_style(BLACK.mix(0.12).stroke_width(scale))
            .axis_style(BLACK.stroke_width(scale))
            .x_labels(marks.max(2))
            .y_labels(if row == Row::Tokens { 5 } else { 6 })
            .x_label_formatter(&|x| format!("{:.0}", x.exp2()))
            .y_label_formatter(&label)
            .label_style(pen.text(15))
            .axis_desc_style(pen.text(17));
        if row == Row::Efficiency {
            mesh.x_desc("machines");
        }
        if at == 0 {
            mesh.y_desc(if row == Row::Tokens { "tokens per second" } else { "efficiency" });
        }
        mesh.draw().map_err(undrawn)?;
        for curve in curves {
            let colour = self.colour(curve.gbit);
            let line = curve.points.iter().map(place).collect::<Vec<_>>();
            if curve.is_dashed {
                let style = colour.stroke_width(scale + scale / 2);
                let dashes = DashedLineSeries::new(line, pen.px(7) as u32, pen.px(5) as u32, style);
                chart.draw_series(dashes).map_err(undrawn)?;
            } else {
                let marker = |&at: &(f64, f64)| Circle::new(at, pen.px(3), colour.filled());
                chart.draw_series(line.iter().map(marker)).map_err(undrawn)?;
                let style = colour.stroke_width(2 * scale);
                chart.draw_series(LineSeries::new(line, style)).map_err(undrawn)?;
            }
        }
        Ok(())
    }

    fn colour(&self, gbit: f64) -> RGBColor {
        let at = self.gbit.iter().position(|known| *known == gbit).unwrap_or(0);
        COLOURS[at % COLOURS.len()]
    }

    /// Colours in one line, dashes in the next.
    fn legend<B: DrawingBackend>(
        &self,
        area: &DrawingArea<B, Shift>,
        scale: u32,
    ) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
        let pen = Pen(scale);
        let style = TextStyle::from(pen.text(17)).pos(Pos::new(HPos::Left, VPos::Center));
        let entry = |at: u32, line: u32, name: String, colour: RGBColor, is_dashed: bool| {
            let (x, y) = (pen.px(40 + 150 * at), pen.px(14 + 26 * line));
            let stroke = colour.stroke_width(2 * scale);
            let dashes: &[(u32, u32)] =
                if is_dashed { &[(0, 7), (12, 19), (24, 31)] } else { &[(0, 31)] };
            for &(from, to) in dashes {
                area.draw(&PathElement::new([(x + pen.px(from), y), (x + pen.px(to), y)], stroke))?;
            }
            area.draw(&Text::new(name, (x + pen.px(38), y + pen.px(2)), style.clone()))
        };
        for (at, gbit) in self.gbit.iter().enumerate() {
            entry(at as u32, 0, format!("{} Gbit/s", trimmed(*gbit)), self.colour(*gbit), false)?;
        }
        entry(0, 1, self.solid.clone(), BLACK, false)?;
        match self.dashed == self.solid {
            true => Ok(()),
            false => entry(1, 1, self.dashed.clone(), BLACK, true),
        }
    }
}

/// A text in lines of about so many letters.
fn broken(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("there is one");
        if !line.is_empty() && line.chars().count() + word.chars().count() >= width {
            lines.push(word.to_string());
        } else {
            line.push_str(if line.is_empty() { "" } else { " " });
            line.push_str(word);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_broken_between_words() {
        assert_eq!(broken("one two three", 8), ["one two", "three"]);
    }
}
