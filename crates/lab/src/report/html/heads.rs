//! Errors of attention by layer and head, drawn.

use super::svg::{Ink, Svg};
use super::{LEVELS, ReportError, Size};
use crate::cell::Cell;
use crate::report::sheet::column;
use crate::report::show;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use serde::Serialize;

/// A heat map with what it says in words.
#[derive(Serialize)]
pub struct Heads {
    /// Whose it is: the number of the recipe's row.
    pub row: usize,
    /// Task and length.
    pub at: String,
    /// Least and greatest error.
    pub low: String,
    /// See `low`.
    pub high: String,
    /// The most sensitive layers and heads.
    pub worst: String,
    /// The plot: width, height and elements, once for all pages.
    pub plots: Vec<(u32, u32, String)>,
    /// Errors with three digits, for what is under the pointer.
    pub errors: Vec<Vec<String>>,
    /// Left, top, width and height of all fields together, in pixels of the plot.
    pub field: (i32, i32, u32, u32),
}

impl Heads {
    /// Whether there is nothing to see.
    pub fn is_exact(&self) -> bool {
        self.errors.iter().flatten().all(|error| error == "0")
    }
}

/// Draws a cell; nothing where no head was measured.
pub fn draw(row: usize, cell: &Cell, size: &Size) -> Result<Option<Heads>, ReportError> {
    let values = || cell.heads.iter().flatten().copied().filter(|error| error.is_finite());
    let (low, high) =
        values().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), error| (low.min(error), high.max(error)));
    if low > high {
        return Ok(None);
    }
    let (plot, field) = plot(&cell.heads, (low, high), size)?;
    let (low, high) = (show::digits(low), show::digits(high));
    let errors = cell.heads.iter().map(|heads| heads.iter().map(|error| show::digits(*error)).collect()).collect();
    Ok(Some(Heads {
        row,
        at: column(cell).name(),
        low,
        high,
        worst: worst(&cell.heads),
        plots: vec![plot],
        errors,
        field,
    }))
}

type Plot = ((u32, u32, String), (i32, i32, u32, u32));

fn plot(heads: &[Vec<f64>], (low, high): (f64, f64), size: &Size) -> Result<Plot, ReportError> {
    let (layers, columns) = (heads.len() as i32, heads.iter().map(Vec::len).max().unwrap_or(0) as i32);
    // As tall as the layers want: their means are written beside them.
    let line = size.font as u32 + 2;
    let height = layers as u32 * line + size.bottom + 24;
    let mut out = String::new();
    let root = Svg::new(&mut out, (size.width, height), &[]).into_drawing_area();
    let mut chart = ChartBuilder::on(&root)
        .margin_top(8)
        .set_label_area_size(LabelAreaPosition::Left, 44)
        .set_label_area_size(LabelAreaPosition::Right, 60)
        .set_label_area_size(LabelAreaPosition::Bottom, size.bottom)
        // A position between two fields would be rounded to a neighbour's.
        .build_cartesian_2d(0.0..f64::from(columns), f64::from(layers)..0.0)?;
    let area = chart.plotting_area().strip_coord_spec();
    let (base, dim) = (area.get_base_pixel(), area.dim_in_pixel());
    let level = |error: f64| match (error - low) / (high - low) {
        share if share.is_finite() => (share * (LEVELS - 1) as f64).round() as usize,
        _ => 0,
    };
    for of in 0..LEVELS {
        let each = heads.iter().enumerate().flat_map(|(layer, heads)| {
            heads
                .iter()
                .enumerate()
                .filter(|(_, error)| error.is_finite())
                .map(move |(head, error)| (layer, head, *error))
        });
        let fields = each.filter(|(.., error)| level(*error) == of).map(|(layer, head, _)| {
            let corner = (head as f64, layer as f64);
            Rectangle::new([corner, (corner.0 + 1.0, corner.1 + 1.0)], Ink::Heat.of(of).filled())
        });
        chart.draw_series(fields)?;
    }
    let text =
        |ink: Ink, pos: HPos| ("sans-serif", size.font).into_font().color(&ink.one()).pos(Pos::new(pos, VPos::Center));
    let centre = |at: f64, of: i32, length: u32| ((at + 0.5) * f64::from(length) / f64::from(of)) as i32;
    for (layer, heads) in heads.iter().enumerate() {
        let y = base.1 + centre(layer as f64, layers, dim.1);
        root.draw_text(&layer.to_string(), &text(Ink::Tick, HPos::Right), (base.0 - 5, y))?;
        let right = base.0 + dim.0 as i32 + 6;
        root.draw_text(&mean(heads).map_or(String::new(), show::digits), &text(Ink::Tick, HPos::Left), (right, y))?;
    }
    // As many numbers as there is room for.
    let every = (columns * 22).div_euclid(dim.0 as i32).max(0) + 1;
    for head in (0..columns).step_by(every.max(1) as usize) {
        let x = base.0 + centre(f64::from(head), columns, dim.0);
        root.draw_text(&head.to_string(), &text(Ink::Tick, HPos::Center), (x, base.1 + dim.1 as i32 + 10))?;
    }
    let (right, below) = (base.0 + dim.0 as i32, base.1 + dim.1 as i32 + 27);
    root.draw_text("layer", &text(Ink::Word, HPos::Right), (base.0 - 5, below - 17))?;
    root.draw_text("query head", &text(Ink::Word, HPos::Center), (base.0 + dim.0 as i32 / 2, below))?;
    root.draw_text("mean", &text(Ink::Word, HPos::Left), (right + 6, below - 17))?;
    root.present()?;
    drop((area, chart, root));
    Ok(((size.width, height, out), (base.0, base.1, dim.0, dim.1)))
}

fn mean(heads: &[f64]) -> Option<f64> {
    (!heads.is_empty()).then(|| heads.iter().sum::<f64>() / heads.len() as f64)
}

/// The most sensitive layers in the mean, and the most sensitive heads.
fn worst(heads: &[Vec<f64>]) -> String {
    let top = |mut places: Vec<(String, f64)>| {
        places.sort_by(|a, b| b.1.total_cmp(&a.1));
        let places: Vec<String> =
            places.iter().take(4).map(|(place, error)| format!("{place} ({})", show::digits(*error))).collect();
        places.join(", ")
    };
    let layers = heads.iter().enumerate().filter_map(|(layer, heads)| Some((layer.to_string(), mean(heads)?)));
    let single = heads.iter().enumerate().flat_map(|(layer, heads)| {
        heads.iter().enumerate().map(move |(head, error)| (format!("{layer}.{head}"), *error))
    });
    format!("Most sensitive layers: {}. Heads: {}.", top(layers.collect()), top(single.collect()))
}
