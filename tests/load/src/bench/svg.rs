//! The CPU per span of each process as stacked bars, one per shape, in SVG.

use std::fmt::Write as _;

const COLOURS: [&str; 7] = ["#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#999999"];
/// Of the drawing, in pixels.
const BAR_HEIGHT: f64 = 26.0;
const ROW_HEIGHT: f64 = 44.0;
const LABEL_WIDTH: f64 = 130.0;
const BAR_WIDTH_MAX: f64 = 560.0;
const TOP: f64 = 84.0;
const WIDTH: f64 = LABEL_WIDTH + BAR_WIDTH_MAX + 90.0;
/// A piece of a bar that is narrower has no number in it.
const NUMBERED_MIN: f64 = 30.0;

/// One bar: its label, and the name and length of each of its pieces.
#[derive(Clone, Debug)]
pub(super) struct Bar {
    pub(super) label: String,
    /// In µs per span.
    pub(super) pieces: Vec<(String, f64)>,
}

/// The drawing. `title` says what was measured where.
pub(super) fn draw(title: &str, bars: &[Bar]) -> String {
    let mut names: Vec<&str> = Vec::new();
    for (name, _) in bars.iter().flat_map(|bar| &bar.pieces) {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    let colour = |name: &str| {
        let place = names.iter().position(|known| *known == name).unwrap_or_default();
        COLOURS[place % COLOURS.len()]
    };
    let sum = |bar: &Bar| bar.pieces.iter().map(|(_, length)| length.max(0.0)).sum::<f64>();
    let longest = bars.iter().map(sum).fold(f64::MIN_POSITIVE, f64::max);
    let mut body = String::new();
    let mut left = 10.0;
    for name in &names {
        _ = writeln!(
            body,
            "<rect x=\"{left:.1}\" y=\"44\" width=\"12\" height=\"12\" fill=\"{}\"/>\
             <text x=\"{:.1}\" y=\"54\">{}</text>",
            colour(name),
            left + 17.0,
            escape(name)
        );
        left += 32.0 + 7.0 * name.chars().count() as f64;
    }
    for (row, bar) in bars.iter().enumerate() {
        let top = TOP + ROW_HEIGHT * row as f64;
        let middle = top + BAR_HEIGHT / 2.0 + 4.0;
        _ = writeln!(body, "<text x=\"10\" y=\"{middle:.1}\">{}</text>", escape(&bar.label));
        let mut left = LABEL_WIDTH;
        for (name, length) in &bar.pieces {
            let width = length.max(0.0) / longest * BAR_WIDTH_MAX;
            _ = writeln!(
                body,
                "<rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{BAR_HEIGHT}\" fill=\"{}\">\
                 <title>{}: {length:.2} us/span</title></rect>",
                colour(name),
                escape(name)
            );
            if width >= NUMBERED_MIN {
                let x = left + width / 2.0;
                _ = writeln!(
                    body,
                    "<text x=\"{x:.1}\" y=\"{middle:.1}\" text-anchor=\"middle\" fill=\"white\">{length:.1}</text>"
                );
            }
            left += width;
        }
        _ = writeln!(body, "<text x=\"{:.1}\" y=\"{middle:.1}\">{:.1}</text>", left + 6.0, sum(bar));
    }
    let height = TOP + ROW_HEIGHT * bars.len() as f64;
    let width = WIDTH.max(left_of_legend(&names));
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"10\" y=\"24\" font-size=\"14\">{}</text>\n{body}</svg>\n",
        escape(title)
    )
}

fn left_of_legend(names: &[&str]) -> f64 {
    10.0 + names.iter().map(|name| 32.0 + 7.0 * name.chars().count() as f64).sum::<f64>()
}

/// A text as XML has it, between tags and in quotes.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            // XML has no way to write the others.
            control if control.is_control() => escaped.push(' '),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_become_markup() {
        assert_eq!(escape("a<b> & \"c\" 'd'\u{0}é"), "a&lt;b&gt; &amp; &quot;c&quot; &#39;d&#39; é");
        let bar = Bar { label: "<1>".to_owned(), pieces: vec![("</svg>".to_owned(), 1.0)] };
        let drawing = draw("a & b", &[bar]);
        assert_eq!(drawing.matches("</svg>").count(), 1, "{drawing}");
        assert!(drawing.contains("&lt;1&gt;") && drawing.contains("a &amp; b"), "{drawing}");
    }

    #[test]
    fn the_longest_bar_has_the_whole_width_and_nothing_is_not_divided_by() {
        let bar = |length| Bar { label: "x".to_owned(), pieces: vec![("a".to_owned(), length)] };
        let drawing = draw("t", &[bar(4.0), bar(2.0)]);
        assert!(drawing.contains("width=\"560.0\"") && drawing.contains("width=\"280.0\""), "{drawing}");
        assert!(!draw("t", &[bar(0.0)]).contains("NaN"));
        assert!(draw("t", &[]).ends_with("</svg>\n"));
    }
}
