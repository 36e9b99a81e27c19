//! The texts that a pipeline is made of: the TOML file and each `--set`, in one line of offsets.

use std::ops::Range;

use miette::{MietteError, MietteSpanContents, SourceCode, SourceSpan, SpanContents};

/// A place in the [`Sources`]: offsets in bytes.
pub type Span = Range<usize>;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Segment {
    name: String,
    start: usize,
    text: String,
}

/// The texts of a pipeline. Each has its own stretch of offsets, so that one span says both which text and where in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sources {
    segments: Vec<Segment>,
}

impl Sources {
    /// Adds a text under the name that messages show; gives the offset of its first byte.
    pub(super) fn add(&mut self, name: impl Into<String>, text: impl Into<String>) -> usize {
        // A gap between texts keeps a span at one's end from being one at the next's start.
        let start = self.segments.last().map_or(0, |last| last.start + last.text.len() + 1);
        self.segments.push(Segment { name: name.into(), start, text: text.into() });
        start
    }

    /// Each text with the offset of its first byte.
    pub(super) fn texts(&self) -> impl Iterator<Item = (usize, &str)> {
        self.segments.iter().map(|segment| (segment.start, segment.text.as_str()))
    }

    fn segment(&self, span: &Span) -> Option<&Segment> {
        self.segments
            .iter()
            .find(|segment| segment.start <= span.start && span.end <= segment.start + segment.text.len())
    }

    /// The text at `span`.
    pub(crate) fn text(&self, span: &Span) -> Option<&str> {
        let segment = self.segment(span)?;
        segment.text.get(span.start - segment.start..span.end - segment.start)
    }

    /// The name of the text that `span` lies in, and the line there (from 1).
    pub fn position(&self, span: &Span) -> Option<(&str, usize)> {
        let segment = self.segment(span)?;
        let before = segment.text.as_bytes().get(..span.start - segment.start)?;
        Some((&segment.name, before.iter().filter(|&&byte| byte == b'\n').count() + 1))
    }

    /// The span of `part` in the quoted text at `span`, if the quoted text stands there without escapes.
    pub(super) fn inside(&self, span: &Span, value: &str, part: Range<usize>) -> Span {
        for quotes in [0, 1, 3] {
            if span.len() < 2 * quotes {
                break;
            }
            let inner = span.start + quotes..span.end - quotes;
            if self.text(&inner) == Some(value) {
                return inner.start + part.start..inner.start + part.end;
            }
        }
        span.clone()
    }
}

impl SourceCode for Sources {
    fn read_span<'a>(
        &'a self,
        span: &SourceSpan,
        context_lines_before: usize,
        context_lines_after: usize,
    ) -> Result<Box<dyn SpanContents<'a> + 'a>, MietteError> {
        let wanted = span.offset()..span.offset() + span.len();
        // A span over two texts cannot be shown as one: miette then shows them one after the other.
        let segment = self.segment(&wanted).ok_or(MietteError::OutOfBounds)?;
        let local = SourceSpan::from(wanted.start - segment.start..wanted.end - segment.start);
        let contents = segment.text.read_span(&local, context_lines_before, context_lines_after)?;
        let shifted = SourceSpan::new((contents.span().offset() + segment.start).into(), contents.span().len());
        Ok(Box::new(MietteSpanContents::new_named(
            segment.name.clone(),
            contents.data(),
            shifted,
            contents.line(),
            contents.column(),
            contents.line_count(),
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_found_in_its_own_text() {
        let mut sources = Sources::default();
        assert_eq!(sources.add("a.toml", "one\ntwo"), 0);
        let start = sources.add("--set", "x.y=\"zed\"");
        assert_eq!(start, 8);
        assert_eq!(sources.text(&(4..7)), Some("two"));
        assert_eq!(sources.position(&(4..7)), Some(("a.toml", 2)));
        assert_eq!(sources.position(&(start + 4..start + 9)), Some(("--set", 1)));
        assert_eq!(sources.inside(&(start + 4..start + 9), "zed", 1..2), start + 6..start + 7);
        assert_eq!(sources.inside(&(start + 4..start + 9), "other", 1..2), start + 4..start + 9);
        assert!(sources.read_span(&SourceSpan::from(4..10), 0, 0).is_err());
        assert_eq!(sources.read_span(&SourceSpan::from(4..7), 0, 0).unwrap().line(), 1);
    }
}
