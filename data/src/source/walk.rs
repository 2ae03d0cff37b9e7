//! Walking through XML, element by element, without building a tree.

use std::path::Path;

use quick_xml::Reader;
use quick_xml::escape::resolve_html5_entity;
use quick_xml::events::{BytesStart, Event as XmlEvent};

use crate::DataError;
use crate::error::{InputPlace, InputProblem};

/// Deeper elements are taken for an attack.
const MAX_DEPTH: usize = 256;

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

/// A walk through a record.
pub(crate) struct Xml<'a> {
    reader: Reader<&'a [u8]>,
    /// The tag that began last.
    tag: BytesStart<'a>,
    /// An empty element was reported to begin and has yet to end.
    closing: bool,
    depth: usize,
    path: &'a Path,
    /// Bytes of the file before the record.
    base: u64,
}

impl<'a> Xml<'a> {
    pub fn new(record: &'a [u8], base: u64, path: &'a Path) -> Self {
        let reader = Reader::from_reader(record);
        Self { reader, tag: BytesStart::new(""), closing: false, depth: 0, path, base }
    }

    /// An error at the present position.
    pub fn wrong(&self, problem: InputProblem) -> DataError {
        let offset = self.base + self.reader.buffer_position();
        DataError::input(self.path, Some(InputPlace { line: None, offset }), problem)
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

    /// The next node; `None` at the end of the record.
    pub fn next(&mut self) -> Result<Option<Node>, DataError> {
        if self.closing {
            self.closing = false;
            self.depth -= 1;
            return Ok(Some(Node::End));
        }
        loop {
            let event = match self.reader.read_event() {
                Ok(event) => event,
                Err(error) => {
                    let why = error.to_string();
                    return Err(self.wrong(InputProblem::NotWellFormed { why }));
                }
            };
            match event {
                XmlEvent::Start(tag) => {
                    self.tag = tag;
                    self.depth += 1;
                    if self.depth > MAX_DEPTH {
                        return Err(self.wrong(InputProblem::TooDeep { limit: MAX_DEPTH }));
                    }
                    return Ok(Some(Node::Start));
                }
                XmlEvent::Empty(tag) => {
                    self.tag = tag;
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
                        Err(_) => Err(self.wrong(InputProblem::NotUtf8Text)),
                    };
                }
                XmlEvent::CData(text) => {
                    let text = std::str::from_utf8(&text).map(str::to_owned);
                    return match text {
                        Ok(text) => Ok(Some(Node::Text(text))),
                        Err(_) => Err(self.wrong(InputProblem::NotUtf8Text)),
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
                        None => Err(self.wrong(InputProblem::UnknownEntity { name })),
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
        next.ok_or_else(|| self.wrong(InputProblem::Unclosed))
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
