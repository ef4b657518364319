//! A plane of quality and cost, drawn.

use super::labels::{Place, Wish, place};
use super::scale::{Axis, Scale};
use super::svg::{Ink, Link, Svg};
use super::{ReportError, Size};
use crate::report::fronts::{Cost, Front, Mark, Quality};
use crate::report::overall::Overall;
use crate::report::pareto::Standing;
use crate::report::show;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// The elements of the plot; empty where there is nothing to draw.
pub fn draw(front: &Front, rows: &[Overall], size: &Size) -> Result<String, ReportError> {
    let mut out = String::new();
    if front.marks.is_empty() {
        return Ok(out);
    }
    let links: Vec<Link> = front.marks.iter().map(|mark| link(mark, &rows[mark.row])).collect();
    let (x, y) = axes(front, size);
    let ends = x.ends();
    let root = Svg::new(&mut out, (size.width, size.height), &links).into_drawing_area();
    let mut chart = ChartBuilder::on(&root)
        .margin_top(8)
        .margin_right(12)
        .set_label_area_size(LabelAreaPosition::Left, size.left)
        .set_label_area_size(LabelAreaPosition::Bottom, size.bottom)
        .build_cartesian_2d(x, y)?;
    let text = |ink: Ink| ("sans-serif", size.font).into_font().color(&ink.one());
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(Ink::Grid.one())
        .axis_style(Ink::Axis.one())
        .label_style(text(Ink::Tick))
        .axis_desc_style(text(Ink::Word))
        .x_desc(x_name(front.cost))
        .y_desc(y_name(front.quality))
        .draw()?;

    chart.draw_series([PathElement::new([(ends.0, 0.0), (ends.1, 0.0)], Ink::Neutral.one())])?;
    chart.draw_series([PathElement::new(steps(front, ends), Ink::Front.one().stroke_width(2))])?;
    for (i, mark) in front.marks.iter().enumerate() {
        let ends = [mark.y.interval.low, mark.y.interval.high].map(|end| (mark.x, above(front.quality, end)));
        if ends[0].1 < ends[1].1 {
            chart.draw_series([PathElement::new(ends, Ink::Bar.of(i))])?;
        }
    }
    // The front last, so that nothing lies on it.
    let mut order: Vec<usize> = (0..front.marks.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(rank(&front.marks[i], rows)));
    let position = |mark: &Mark| (mark.x, above(front.quality, mark.y.value));
    for i in order {
        let (mark, ink) = (&front.marks[i], Ink::Mark.of(i));
        let at = EmptyElement::at(position(mark));
        if rows[mark.row].is_reference {
            chart.draw_series([at + Polygon::new([(0, -7), (7, 0), (0, 7), (-7, 0)], ink)])?;
        } else if mark.standing.is_none() {
            chart.draw_series([at + Polygon::new([(0, -4), (4, 4), (-4, 4)], ink)])?;
        } else {
            let radius = if mark.standing == Some(Standing::Behind) { 3 } else { 5 };
            chart.draw_series([at + Circle::new((0, 0), radius, ink.filled())])?;
        }
    }
    let area = chart.plotting_area().strip_coord_spec();
    let (base, (width, height)) = (area.get_base_pixel(), area.dim_in_pixel());
    let pixels = |mark: &Mark| {
        let at = chart.plotting_area().map_coordinate(&position(mark));
        (at.0 - base.0, at.1 - base.1)
    };
    let all: Vec<(i32, i32)> = front.marks.iter().map(pixels).collect();
    let mut named: Vec<usize> = (0..front.marks.len()).filter(|&i| rank(&front.marks[i], rows) < 3).collect();
    named.sort_by_key(|&i| rank(&front.marks[i], rows));
    let wish = |&i: &usize| Wish { at: all[i], width: size.width_of(&short(&rows[front.marks[i].row].recipe)) };
    let wishes: Vec<Wish> = named.iter().map(wish).collect();
    let places = place(&wishes, &all, (width as i32, height as i32), size);
    for (&i, found) in named.iter().zip(places) {
        let Some(Place { left, middle, is_far }) = found else { continue };
        let name = short(&rows[front.marks[i].row].recipe);
        if is_far {
            let right = left + size.width_of(&name);
            let near = if all[i].0 < left {
                left - 2
            } else if all[i].0 > right {
                right + 2
            } else {
                all[i].0
            };
            area.draw(&PathElement::new([all[i], (near, middle)], Ink::Leader.one()))?;
        }
        let style = text(Ink::Name).pos(Pos::new(HPos::Left, VPos::Center));
        area.draw_text(&name, &style, (left, middle))?;
    }
    root.present()?;
    drop((area, chart, root));
    Ok(out)
}

/// 0 for the reference, then the surer of the front, then the others.
fn rank(mark: &Mark, rows: &[Overall]) -> usize {
    match mark.standing {
        _ if rows[mark.row].is_reference => 0,
        Some(Standing::Front) => 1,
        Some(Standing::FrontWithinNoise) => 2,
        Some(Standing::WithinNoise) => 3,
        Some(Standing::Behind) => 4,
        None => 5,
    }
}

fn link(mark: &Mark, row: &Overall) -> Link {
    let class = match mark.standing {
        _ if row.is_reference => "reference",
        Some(Standing::Front) => "sure",
        Some(Standing::FrontWithinNoise) => "noisy",
        Some(Standing::WithinNoise) => "near",
        Some(Standing::Behind) => "behind",
        None => "partial",
    };
    let standing = match mark.standing {
        _ if row.is_reference => "the reference".into(),
        Some(standing) => standing.name().to_owned(),
        None => format!("{} of {} cells, not compared", mark.y.cells, mark.y.of),
    };
    let title = format!("{}: {}; {standing}", row.recipe, mark.numbers);
    Link { class, href: format!("#{}", super::recipe_anchor(mark.row)), title }
}

fn axes(front: &Front, size: &Size) -> (Axis, Axis) {
    let costs = || front.marks.iter().map(|mark| mark.x).chain([1.0]);
    let x = Axis::over(Scale::log(costs()), costs(), size.ticks.0, x_tick(front.cost));
    let values = || front.marks.iter().map(|mark| above(front.quality, mark.y.value));
    let uppers = || front.marks.iter().map(|mark| above(front.quality, mark.y.interval.high));
    let lowers = || front.marks.iter().map(|mark| above(front.quality, mark.y.interval.low));
    let show = y_tick(front.quality);
    let y = match front.quality {
        Quality::Score => Axis::over(Scale::Linear, lowers().chain(uppers()).chain([0.0]), size.ticks.1, show),
        // The lower end of an interval may be as good as 0, which would leave no room for the rest.
        Quality::Kl => Axis::over(Scale::log(values()), values().chain(uppers()), size.ticks.1, show),
        Quality::Perplexity => {
            let unit = Scale::Symmetric { unit: 1e-3 };
            Axis::over(unit, values().chain(uppers()).chain([0.0]), size.ticks.1, show)
        }
    };
    (x, y)
}

/// The number that is drawn: perplexity as what it lies above the reference's.
fn above(quality: Quality, value: f64) -> f64 {
    if quality == Quality::Perplexity { value - 1.0 } else { value }
}

/// The front as stairs: what is to be had for each cost.
fn steps(front: &Front, ends: (f64, f64)) -> Vec<(f64, f64)> {
    let on = front.marks.iter().filter(|mark| mark.standing.is_some_and(Standing::is_front));
    let mut points: Vec<(f64, f64)> = on.map(|mark| (mark.x, above(front.quality, mark.y.value))).collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    if front.cost.more_is_better() {
        points.reverse();
    }
    let mut path: Vec<(f64, f64)> = Vec::with_capacity(2 * points.len() + 1);
    for point in points {
        if let Some(&(_, level)) = path.last() {
            path.push((point.0, level));
        }
        path.push(point);
    }
    if let Some(&(_, level)) = path.last() {
        path.push((if front.cost.more_is_better() { ends.0 } else { ends.1 }, level));
    }
    path
}

fn x_name(cost: Cost) -> &'static str {
    match cost {
        Cost::Bytes => "bytes, of the reference's (less is better)",
        Cost::Decode => "decoding speed ratio (more is better)",
    }
}

fn y_name(quality: Quality) -> &'static str {
    match quality {
        Quality::Score => "score difference, points (more is better)",
        Quality::Kl => "KL, nats (less is better)",
        Quality::Perplexity => "perplexity, change (less is better)",
    }
}

fn x_tick(cost: Cost) -> fn(f64) -> String {
    match cost {
        Cost::Bytes => |value| format!("{}%", trimmed(100.0 * value)),
        Cost::Decode => |value| format!("{}×", trimmed(value)),
    }
}

fn y_tick(quality: Quality) -> fn(f64) -> String {
    match quality {
        Quality::Score => |value| trimmed(100.0 * value),
        Quality::Kl => trimmed,
        Quality::Perplexity => |value| match value {
            _ if value >= 9.0 => format!("×{}", trimmed(value + 1.0)),
            _ if value > 0.0 => format!("+{}%", trimmed(100.0 * value)),
            _ => format!("{}%", trimmed(100.0 * value)),
        },
    }
}

/// Without digits that say nothing.
fn trimmed(value: f64) -> String {
    let text = show::digits(value);
    match text.split_once('e') {
        Some((number, power)) => format!("{}e{power}", number.trim_end_matches('0').trim_end_matches('.')),
        None if text.contains('.') => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        None => text,
    }
}

/// Names written inline can be long.
fn short(name: &str) -> String {
    let mut short: String = name.chars().take(24).collect();
    if short.len() < name.len() {
        short.push('…');
    }
    short
}
