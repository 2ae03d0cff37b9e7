//! XML files: PubMed citations or JATS articles, whichever their elements are.

use std::path::Path;

use super::record::{Event, Sink};
use super::stream::Stream;
use super::walk::{Node, Xml};
use super::{jats, pubmed};
use crate::DataError;
use crate::error::InputProblem;

/// Reads the records of an XML file.
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
    if xml.is_open() {
        return Err(xml.wrong(InputProblem::Unclosed));
    }
    if !found {
        return Err(xml.wrong(InputProblem::NoLiterature));
    }
    Ok(())
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
