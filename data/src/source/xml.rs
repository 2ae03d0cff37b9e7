//! XML files: PubMed citations or JATS articles, whichever their elements are. A damaged record does
//! not lose the others.

use std::path::Path;

use super::frames::{Frame, Frames};
use super::record::{Event, Sink};
use super::stream::Stream;
use super::walk::{Node, Xml};
use super::{jats, pubmed};
use crate::DataError;
use crate::error::InputProblem;

/// Reads the records of an XML file.
pub(crate) fn read(stream: Stream, path: &Path, sink: Sink) -> Result<(), DataError> {
    let mut frames = Frames::new(stream, path);
    while let Some(frame) = frames.next()? {
        let event = match frame {
            Frame::Record(piece) => {
                let (bytes, base) = frames.bytes(&piece);
                record(&mut Xml::new(bytes, base, path)).unwrap_or_else(|damage| {
                    frames.damaged(piece);
                    Event::Damaged(damage)
                })
            }
            Frame::Stray(damage) | Frame::TooLong(damage) => Event::Damaged(damage),
        };
        sink(event)?;
    }
    Ok(())
}

/// What a record says.
fn record(xml: &mut Xml) -> Result<Event, DataError> {
    match xml.within()? {
        Node::Start => match xml.name() {
            b"DeleteCitation" => Ok(Event::Deleted(pubmed::deleted(xml)?)),
            b"article" => Ok(Event::Record(jats::article(xml)?)),
            b"MedlineCitation" => Ok(Event::Record(pubmed::medline(xml)?)),
            _ => Ok(Event::Record(pubmed::citation(xml)?)),
        },
        Node::End | Node::Text(_) => Err(xml.wrong(InputProblem::Unclosed)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{damages, parse, records};

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
        let (found, damages) = damages("a.xml", bomb.as_bytes());
        assert!(found.is_empty() && damages.len() == 1, "{damages:?}");
        assert!(damages[0].contains("&a39; is not known"), "{damages:?}");
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
        let (_, damages) = damages("a.xml", &latin);
        assert!(damages[0].contains("not UTF-8"), "{damages:?}");
    }

    fn citation(number: u32) -> String {
        format!(
            "<PubmedArticle>\n<MedlineCitation><PMID Version=\"1\">{number}</PMID>\
             <Article PubModel='Print'><ArticleTitle>On β{number} &amp; <i>it</i></ArticleTitle>\
             <Abstract><AbstractText>It was {number}.</AbstractText></Abstract></Article>\
             </MedlineCitation></PubmedArticle>\n"
        )
    }

    fn article(number: u32) -> String {
        format!(
            "<article xml:lang=\"en\"><front><article-meta><article-id pub-id-type=\"pmc\">{number}\
             </article-id></article-meta></front><body><p>Was <![CDATA[<{number}>]]>.</p>\
             <!-- no <p> --></body></article>\n"
        )
    }

    /// Whatever byte of a file is damaged, all records but the one that it lies in are read, and what
    /// is lost is counted.
    #[test]
    fn any_damaged_byte_costs_its_record_alone() {
        let citations: String = (1..5).map(citation).collect();
        let articles: String = (1..5).map(article).collect();
        let medline = citations.replace("<PubmedArticle>\n", "").replace("</PubmedArticle>", "");
        for (text, end, root) in [
            (&citations, "</PubmedArticle>", "PubmedArticleSet"),
            (&medline, "</MedlineCitation>", "MedlineCitationSet"),
            (&articles, "</article>", "pmc-articleset"),
        ] {
            let text = format!("<?xml version=\"1.0\"?>\n<{root}>\n{text}</{root}>\n");
            let whole = records("a.xml", text.as_bytes());
            assert_eq!(whole.len(), 4);
            let ends: Vec<usize> = text.match_indices(end).map(|(at, _)| at + end.len()).collect();
            for at in 0..text.len() {
                let hit = ends.iter().filter(|&&end| at >= end).count();
                for byte in [0xFF, b'<', b'>', b'"', text.as_bytes()[at] ^ 0x20, b'-'] {
                    let mut bytes = text.clone().into_bytes();
                    bytes[at] = byte;
                    let (found, damages) = damages("a.xml", &bytes);
                    let kept = whole.iter().enumerate().filter(|(number, _)| *number != hit);
                    for (number, record) in kept {
                        assert!(found.contains(record), "{byte:#04x} at {at} of {text}: {number}");
                    }
                    let lost = whole.len().saturating_sub(found.len());
                    assert!(damages.len() >= lost && lost <= 1, "{byte:#04x} at {at} of {text}");
                }
            }
        }
    }

    #[test]
    fn a_cut_file_keeps_what_came_before_and_says_so() {
        let text = format!(
            "<PubmedArticleSet>{}</PubmedArticleSet>",
            (1..4).map(citation).collect::<String>()
        );
        let ends: Vec<usize> =
            text.match_indices("</PubmedArticle>").map(|(at, _)| at + 16).collect();
        for cut in 0..text.len() - 1 {
            let (found, damages) = damages("a.xml", &text.as_bytes()[..cut]);
            assert_eq!(found.len(), ends.iter().filter(|&&end| cut >= end).count(), "cut at {cut}");
            assert!(!damages.is_empty(), "cut at {cut}");
        }
    }

    #[test]
    fn tags_in_comments_and_sections_do_not_count() {
        let inner = article(7);
        let text = format!(
            "<set><!-- {} --><article><body><p>One<!-- </article>{inner}--> and \
             <![CDATA[<article>two</article>]]>.</p></body></article><article/>{}</set>",
            inner.replace("<!-- no <p> -->", ""),
            article(8)
        );
        let found = records("a.xml", text.replace("<!-- no <p> -->", "").as_bytes());
        let paragraphs: Vec<_> = found.iter().map(|record| record.paragraphs.join("|")).collect();
        assert_eq!(paragraphs, ["One and <article>two</article>.", "", "Was <8>."]);
    }

    #[test]
    fn records_that_never_end_are_read_in_linear_time() {
        for piece in [
            "<article>",
            "<!-- <article>",
            "<![CDATA[<article>",
            "<article><!-- </article>",
            "<!--",
            "<a ",
            "</article>",
        ] {
            let bytes = piece.repeat((4 << 20) / piece.len());
            let (found, damages) = damages("a.xml", bytes.as_bytes());
            assert!(found.len() + damages.len() > 0, "{piece}");
        }
    }
}
