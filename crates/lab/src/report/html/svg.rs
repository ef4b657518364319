//! Where plots are drawn to: SVG whose elements have classes for the style sheet, so that it follows light and dark.

use minijinja::HtmlEscape;
use plotters::style::RGBColor;
use plotters_backend::text_anchor::{HPos, VPos};
use plotters_backend::{
    BackendColor, BackendCoord, BackendStyle, BackendTextStyle, DrawingBackend, DrawingErrorKind, FontTransform,
};
use std::convert::Infallible;
use std::fmt::Write;

/// What an element is. Plotters carries colours around; ours stand for these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Ink {
    /// Lines of the axes.
    Axis,
    /// Lines behind the plot.
    Grid,
    /// Numbers at the axes.
    Tick,
    /// Names of the axes and other words.
    Word,
    /// The front.
    Front,
    /// Where the reference is.
    Neutral,
    /// The interval of the mark with the index.
    Bar,
    /// The mark with the index.
    Mark,
    /// Names of marks.
    Name,
    /// From a name to its mark.
    Leader,
    /// A field of a heat map; the index is the level.
    Heat,
}

const CLASSES: [&str; 11] =
    ["axis", "grid", "tick", "word", "front-line", "neutral", "bar", "mark", "name", "leader", "h"];

impl Ink {
    /// The colour that stands for it.
    pub fn of(self, index: usize) -> RGBColor {
        RGBColor(self as u8, (index >> 8) as u8, index as u8)
    }

    /// The colour that stands for it where there is one only.
    pub fn one(self) -> RGBColor {
        self.of(0)
    }
}

/// What a mark is and leads to.
pub struct Link {
    /// Further classes of the mark and its bar.
    pub class: &'static str,
    /// An anchor in the page.
    pub href: String,
    /// What is read out.
    pub title: String,
}

/// SVG elements, without the `svg` around them.
pub struct Svg<'a> {
    out: &'a mut String,
    size: (u32, u32),
    links: &'a [Link],
    /// Rectangles of one class that follow each other are one path.
    fields: Option<(String, String)>,
}

type Drawn = Result<(), DrawingErrorKind<Infallible>>;

impl<'a> Svg<'a> {
    /// Draws to the end of `out`, on `size` pixels; marks are those of `links`.
    pub fn new(out: &'a mut String, size: (u32, u32), links: &'a [Link]) -> Svg<'a> {
        Svg { out, size, links, fields: None }
    }

    fn link(&self, color: BackendColor) -> Option<&'a Link> {
        self.links.get(usize::from(color.rgb.1) << 8 | usize::from(color.rgb.2))
    }

    fn class(&self, color: BackendColor) -> String {
        let class = CLASSES.get(usize::from(color.rgb.0)).copied().unwrap_or_default();
        match class {
            "h" => format!("h{}", color.rgb.2),
            "bar" | "mark" => format!("{class} {}", self.link(color).map_or("", |link| link.class)),
            _ => class.to_owned(),
        }
    }

    fn write(&mut self, element: std::fmt::Arguments<'_>) -> Drawn {
        self.end_fields();
        // Writing to a string does not fail.
        let _ = writeln!(self.out, "{element}");
        Ok(())
    }

    fn end_fields(&mut self) {
        if let Some((class, path)) = self.fields.take() {
            let _ = writeln!(self.out, r#"<path class="{class}" d="{path}"/>"#);
        }
    }

    fn stroke(&mut self, points: impl IntoIterator<Item = BackendCoord>, color: BackendColor) -> Drawn {
        let mut path = String::new();
        for (i, (x, y)) in points.into_iter().enumerate() {
            let _ = write!(path, "{}{x} {y}", if i == 0 { 'M' } else { 'L' });
        }
        let class = self.class(color);
        self.write(format_args!(r#"<path class="{class}" d="{path}"/>"#))
    }

    /// A shape; where it is a mark, within its link.
    fn shape(&mut self, shape: std::fmt::Arguments<'_>, color: BackendColor) -> Drawn {
        let class = self.class(color);
        match self.link(color).filter(|_| color.rgb.0 == Ink::Mark as u8) {
            Some(Link { href, title, .. }) => {
                let (href, title) = (HtmlEscape(href), HtmlEscape(title));
                self.write(format_args!(r#"<a class="{class}" href="{href}"><title>{title}</title><{shape}/></a>"#))
            }
            None => self.write(format_args!(r#"<{shape} class="{class}"/>"#)),
        }
    }
}

impl DrawingBackend for Svg<'_> {
    type ErrorType = Infallible;

    fn get_size(&self) -> (u32, u32) {
        self.size
    }

    fn ensure_prepared(&mut self) -> Drawn {
        Ok(())
    }

    fn present(&mut self) -> Drawn {
        self.end_fields();
        Ok(())
    }

    fn draw_pixel(&mut self, (x, y): BackendCoord, color: BackendColor) -> Drawn {
        self.shape(format_args!(r#"rect x="{x}" y="{y}" width="1" height="1""#), color)
    }

    fn draw_line<S: BackendStyle>(&mut self, from: BackendCoord, to: BackendCoord, style: &S) -> Drawn {
        self.draw_path([from, to], style)
    }

    fn draw_path<S: BackendStyle, I: IntoIterator<Item = BackendCoord>>(&mut self, path: I, style: &S) -> Drawn {
        // What is invisible in plotters is not drawn.
        if style.color().alpha == 0.0 { Ok(()) } else { self.stroke(path, style.color()) }
    }

    fn draw_rect<S: BackendStyle>(&mut self, from: BackendCoord, to: BackendCoord, style: &S, _fill: bool) -> Drawn {
        let class = self.class(style.color());
        if self.fields.as_ref().is_some_and(|(open, _)| *open != class) {
            self.end_fields();
        }
        let (width, height) = (to.0 - from.0, to.1 - from.1);
        let (_, path) = self.fields.get_or_insert_with(|| (class, String::new()));
        let _ = write!(path, "M{} {}h{width}v{height}h{}z", from.0, from.1, -width);
        Ok(())
    }

    fn draw_circle<S: BackendStyle>(&mut self, center: BackendCoord, radius: u32, style: &S, _fill: bool) -> Drawn {
        let (x, y) = center;
        self.shape(format_args!(r#"circle cx="{x}" cy="{y}" r="{radius}""#), style.color())
    }

    fn fill_polygon<S: BackendStyle, I: IntoIterator<Item = BackendCoord>>(&mut self, path: I, style: &S) -> Drawn {
        let points: Vec<String> = path.into_iter().map(|(x, y)| format!("{x},{y}")).collect();
        self.shape(format_args!(r#"polygon points="{}""#, points.join(" ")), style.color())
    }

    fn draw_text<T: BackendTextStyle>(&mut self, text: &str, style: &T, (x, y): BackendCoord) -> Drawn {
        let anchor = match style.anchor().h_pos {
            HPos::Left => "start",
            HPos::Center => "middle",
            HPos::Right => "end",
        };
        let down = match style.anchor().v_pos {
            VPos::Top => ".76em",
            VPos::Center => ".35em",
            VPos::Bottom => "-.24em",
        };
        let turn = match style.transform() {
            FontTransform::None => String::new(),
            FontTransform::Rotate90 => format!(r#" transform="rotate(90 {x} {y})""#),
            FontTransform::Rotate180 => format!(r#" transform="rotate(180 {x} {y})""#),
            FontTransform::Rotate270 => format!(r#" transform="rotate(270 {x} {y})""#),
        };
        let (class, size, text) = (self.class(style.color()), style.size().round(), HtmlEscape(text));
        let place = format_args!(r#"x="{x}" y="{y}" dy="{down}""#);
        self.write(format_args!(
            r#"<text class="{class}" {place} font-size="{size}" text-anchor="{anchor}"{turn}>{text}</text>"#
        ))
    }
}
