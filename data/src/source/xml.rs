//! Walking through XML, element by element, without building a tree.

use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;

use quick_xml::Reader;
use quick_xml::escape::resolve_html5_entity;
use quick_xml::events::{BytesStart, Event as XmlEvent};

use super::stream::{Stream, explain};
use super::{Event, MAX_RECORD, Sink, jats, pubmed};
use crate::DataError;

/// Deeper elements are taken for an attack.
const MAX_DEPTH: usize = 256;

/// Reads PubMed citations or JATS articles, whichever the elements are.
pub(crate) fn read(stream: Stream, path: &Path, sink: Sink) -> Result<(), DataError> {
    let mut xml = Xml::new(stream, path);
    let mut found = false;
    while let Some(node) = xml.next()? {
        match node {
            Node::Start => match xml.name() {
                b"PubmedArticle" | b"PubmedBookArticle" => {
                    found = true;
                    let record = pubmed::citation(&mut xml)?;
                    sink(Event::Record(record))?;
                    xml.renew();
                }
                b"DeleteCitation" => {
                    found = true;
                    let deleted = pubmed::deleted(&mut xml)?;
                    sink(Event::Deleted(deleted))?;
                    xml.renew();
                }
                b"article" => {
                    found = true;
                    let record = jats::article(&mut xml)?;
                    sink(Event::Record(record))?;
                    xml.renew();
                }
                b"PubmedArticleSet" | b"PubmedBookArticleSet" => found = true,
                _ => {}
            },
            Node::End | Node::Text(_) => {}
        }
    }
    if xml.depth > 0 {
        return Err(xml.wrong("the file breaks off within an element"));
    }
    if !found {
        return Err(xml.wrong("neither PubMed citations nor JATS articles were found"));
    }
    Ok(())
}

/// What comes next.
pub(crate) enum Node {
    /// An element begins; its name and attributes are the walker's [`Xml::name`] and
    /// [`Xml::attribute`].
    Start,
    /// The innermost open element ends.
    End,
    /// Text, with entities resolved.
    Text(String),
}

/// A walk through a document.
pub(crate) struct Xml<'a> {
    reader: Reader<Stream<'a>>,
    buffer: Vec<u8>,
    /// The tag that began last.
    tag: BytesStart<'static>,
    /// An empty element was reported to begin and has yet to end.
    closing: bool,
    depth: usize,
    path: &'a Path,
    budget: Rc<Cell<u64>>,
}

impl<'a> Xml<'a> {
    pub fn new(stream: Stream<'a>, path: &'a Path) -> Self {
        let budget = stream.budget();
        let reader = Reader::from_reader(stream);
        let tag = BytesStart::new("");
        Self { reader, buffer: Vec::new(), tag, closing: false, depth: 0, path, budget }
    }

    /// A record is complete: the next may be as long again.
    pub fn renew(&self) {
        self.budget.set(MAX_RECORD);
    }

    /// An error at the present position.
    pub fn wrong(&self, problem: impl Into<String>) -> DataError {
        let advice = "fetch the file again; records before this place were read";
        DataError::input(self.path, None, self.reader.buffer_position(), problem, advice)
    }

    /// Name of the element that began last, without its prefix.
    pub fn name(&self) -> &[u8] {
        self.tag.local_name().into_inner()
    }

    /// An attribute of the element that began last, by its name without prefix.
    pub fn attribute(&self, name: &str) -> Option<String> {
        self.tag.attributes().with_checks(false).flatten().find_map(|attribute| {
            let same = attribute.key.local_name().into_inner() == name.as_bytes();
            let value = || attribute.unescape_value().ok().map(|value| value.into_owned());
            same.then(value).flatten()
        })
    }

    /// The next node; `None` at the end of the file.
    pub fn next(&mut self) -> Result<Option<Node>, DataError> {
        if self.closing {
            self.closing = false;
            self.depth -= 1;
            return Ok(Some(Node::End));
        }
        loop {
            self.buffer.clear();
            let event = match self.reader.read_event_into(&mut self.buffer) {
                Ok(event) => event,
                Err(quick_xml::Error::Io(error)) => return Err(self.wrong(explain(&error))),
                Err(error) => return Err(self.wrong(format!("not well-formed XML ({error})"))),
            };
            match event {
                XmlEvent::Start(tag) => {
                    self.tag = tag.into_owned();
                    self.depth += 1;
                    if self.depth > MAX_DEPTH {
                        return Err(self.wrong(format!("more than {MAX_DEPTH} elements deep")));
                    }
                    return Ok(Some(Node::Start));
                }
                XmlEvent::Empty(tag) => {
                    self.tag = tag.into_owned();
                    self.depth += 1;
                    self.closing = true;
                    return Ok(Some(Node::Start));
                }
                XmlEvent::End(_) => {
                    self.depth -= 1;
                    return Ok(Some(Node::End));
                }
                XmlEvent::Text(text) => {
                    let text = std::str::from_utf8(&text).map(str::to_owned);
                    return match text {
                        Ok(text) => Ok(Some(Node::Text(text))),
                        Err(_) => Err(self.wrong("the text is not UTF-8")),
                    };
                }
                XmlEvent::CData(text) => {
                    let text = std::str::from_utf8(&text).map(str::to_owned);
                    return match text {
                        Ok(text) => Ok(Some(Node::Text(text))),
                        Err(_) => Err(self.wrong("the text is not UTF-8")),
                    };
                }
                XmlEvent::GeneralRef(entity) => {
                    let resolved = match entity.resolve_char_ref() {
                        Ok(Some(character)) => Some(character.to_string()),
                        Ok(None) => std::str::from_utf8(&entity)
                            .ok()
                            .and_then(resolve_html5_entity)
                            .map(str::to_owned),
                        Err(_) => None,
                    };
                    let name = String::from_utf8_lossy(&entity).into_owned();
                    // Entities that a document defines itself are not expanded, so that none can
                    // expand without end.
                    return match resolved {
                        Some(text) => Ok(Some(Node::Text(text))),
                        None => Err(self.wrong(format!("the entity &{name}; is not known"))),
                    };
                }
                XmlEvent::Eof => return Ok(None),
                XmlEvent::Comment(_)
                | XmlEvent::Decl(_)
                | XmlEvent::PI(_)
                | XmlEvent::DocType(_) => {}
            }
        }
    }

    /// The next node within the innermost open element, which must not be cut off.
    pub fn within(&mut self) -> Result<Node, DataError> {
        let next = self.next()?;
        next.ok_or_else(|| self.wrong("the file breaks off within an element"))
    }

    /// Calls `child` at the beginning of every child of the element that began last, until it ends.
    /// `child` must read the child to its end.
    pub fn children(
        &mut self,
        child: &mut dyn FnMut(&mut Self) -> Result<(), DataError>,
    ) -> Result<(), DataError> {
        loop {
            match self.within()? {
                Node::Start => child(self)?,
                Node::End => return Ok(()),
                Node::Text(_) => {}
            }
        }
    }

    /// Passes over the element that began last.
    pub fn skip(&mut self) -> Result<(), DataError> {
        let mut open = 1;
        while open > 0 {
            match self.within()? {
                Node::Start => open += 1,
                Node::End => open -= 1,
                Node::Text(_) => {}
            }
        }
        Ok(())
    }

    /// All text of the element that began last, markup aside.
    pub fn text(&mut self) -> Result<String, DataError> {
        let mut text = String::new();
        let mut open = 1;
        while open > 0 {
            match self.within()? {
                Node::Start => open += 1,
                Node::End => open -= 1,
                Node::Text(part) => text.push_str(&part),
            }
        }
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{parse, records};

    #[test]
    fn entities_that_a_file_defines_are_not_expanded() {
        let mut bomb = String::from("<!DOCTYPE PubmedArticleSet [<!ENTITY a0 \"ha\">");
        for level in 1..40 {
            let inner = format!("&a{};", level - 1).repeat(10);
            bomb += &format!("<!ENTITY a{level} \"{inner}\">");
        }
        bomb += "]><PubmedArticleSet><PubmedArticle><MedlineCitation><PMID>1</PMID><Article>\
                 <ArticleTitle>&a39;</ArticleTitle></Article></MedlineCitation></PubmedArticle>\
                 </PubmedArticleSet>";
        let (events, error) = parse("a.xml", bomb.as_bytes());
        let message = error.expect("a bomb").to_string();
        assert!(events.is_empty() && message.contains("&a39; is not known"), "{message}");
    }

    #[test]
    fn byte_order_marks_and_other_files_are_told_apart() {
        let article = "\u{feff}<article><body><p>Text.</p></body></article>";
        assert_eq!(records("a.xml", article.as_bytes())[0].paragraphs, ["Text."]);
        for other in ["", "plain text", "<html><body/></html>", "\0\u{1}"] {
            let message = parse("a.xml", other.as_bytes()).1.expect("no input").to_string();
            assert!(message.contains("a.xml, byte "), "{message}");
        }
        let mut latin = b"<article><body><p>na".to_vec();
        latin.extend(b"\xefve</p></body></article>");
        let message = parse("a.xml", &latin).1.expect("not UTF-8").to_string();
        assert!(message.contains("not UTF-8"), "{message}");
    }
}
