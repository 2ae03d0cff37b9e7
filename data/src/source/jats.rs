//! JATS: full articles as PubMed Central has them.
//!
//! Kept are the title, the abstract and the body in reading order, a paragraph or heading each.
//! Left out are tables, figures, displayed formulae and the markup of formulae, footnotes, the list of
//! references and the marks that point there when they are numbers, translated and graphical
//! abstracts, letters attached to the article, and everything after the body.

use super::record::{Record, Registry, Revision};
use super::walk::{Node, Xml};
use crate::DataError;

/// Stands for a mark that pointed to a reference, until [`tidy`] removes it with its brackets.
const MARK: char = '\u{E000}';

/// Elements that hold no running text.
const LEFT_OUT: [&[u8]; 30] = [
    b"table-wrap",
    b"table-wrap-group",
    b"table",
    b"fig",
    b"fig-group",
    b"disp-formula",
    b"disp-formula-group",
    b"math",
    b"tex-math",
    b"chem-struct-wrap",
    b"chem-struct",
    b"graphic",
    b"inline-graphic",
    b"media",
    b"supplementary-material",
    b"inline-supplementary-material",
    b"fn",
    b"fn-group",
    b"ref-list",
    b"label",
    b"object-id",
    b"permissions",
    b"sec-meta",
    b"array",
    b"index-term",
    b"processing-meta",
    b"alt-text",
    b"long-desc",
    b"code",
    b"preformat",
];

/// Elements that begin a paragraph of their own.
const BLOCKS: [&[u8]; 15] = [
    b"p",
    b"title",
    b"sec",
    b"list",
    b"list-item",
    b"def-list",
    b"def-item",
    b"disp-quote",
    b"boxed-text",
    b"statement",
    b"verse-group",
    b"verse-line",
    b"speech",
    b"attrib",
    b"subtitle",
];

/// One `article`, whose tag has begun.
pub(crate) fn article(xml: &mut Xml) -> Result<Record, DataError> {
    let mut record = Record::default();
    record.languages.extend(xml.attribute("lang"));
    let (mut pmid, mut doi) = (None, None);
    xml.children(&mut |xml| match xml.name() {
        b"front" => xml.children(&mut |xml| match xml.name() {
            b"article-meta" => xml.children(&mut |xml| meta(xml, &mut record, &mut pmid, &mut doi)),
            _ => xml.skip(),
        }),
        b"body" => prose(xml, &mut record.paragraphs),
        _ => xml.skip(),
    })?;
    record.identity = record.identity.or(pmid).or(doi);
    Ok(record)
}

fn meta(
    xml: &mut Xml,
    record: &mut Record,
    pmid: &mut Option<String>,
    doi: &mut Option<String>,
) -> Result<(), DataError> {
    match xml.name() {
        b"article-id" => {
            let kind = xml.attribute("pub-id-type").unwrap_or_default();
            let id = xml.text()?.trim().to_owned();
            match kind.as_str() {
                "pmc" | "pmcid" | "pmcaid" => {
                    if let Ok(number) = id.trim_start_matches("PMC").parse() {
                        record.identity = Some(format!("PMC:{number}"));
                        record.revision =
                            Some(Revision { registry: Registry::Pmc, number, version: 1 });
                    }
                }
                "pmid" => *pmid = Some(format!("PMID:{id}")),
                "doi" => *doi = Some(format!("DOI:{id}")),
                _ => {}
            }
            Ok(())
        }
        b"title-group" => xml.children(&mut |xml| match xml.name() {
            b"article-title" => {
                let mut parts = Vec::new();
                prose(xml, &mut parts)?;
                record.title = parts.join(" ");
                Ok(())
            }
            _ => xml.skip(),
        }),
        b"abstract" => {
            let kind = xml.attribute("abstract-type").unwrap_or_default();
            match kind.as_str() {
                "graphical" | "toc" | "teaser" | "video" | "audio" => xml.skip(),
                _ => prose(xml, &mut record.paragraphs),
            }
        }
        b"related-article" => {
            let kind = xml.attribute("related-article-type");
            record.retracted |= kind.as_deref() == Some("retraction-forward");
            xml.skip()
        }
        _ => xml.skip(),
    }
}

/// Adds the paragraphs of the element that began last.
fn prose(xml: &mut Xml, paragraphs: &mut Vec<String>) -> Result<(), DataError> {
    let mut current = String::new();
    // Per open element: does it begin a paragraph of its own?
    let mut open = vec![true];
    while let Some(&is_block) = open.last() {
        match xml.within()? {
            Node::Start => {
                let name = xml.name();
                if LEFT_OUT.contains(&name) {
                    xml.skip()?;
                    continue;
                }
                let block = BLOCKS.contains(&name);
                if name == b"xref" && xml.attribute("ref-type").as_deref() == Some("bibr") {
                    let text = xml.text()?;
                    // Author-year references are part of their sentences.
                    if text.chars().any(char::is_alphabetic) {
                        current.push_str(&text);
                    } else {
                        current.push(MARK);
                    }
                    continue;
                }
                match name {
                    b"break" => current.push(' '),
                    b"term" | b"def" => close(&mut current, paragraphs),
                    _ => {}
                }
                if block {
                    close(&mut current, paragraphs);
                }
                open.push(block);
            }
            Node::End => {
                if is_block {
                    close(&mut current, paragraphs);
                }
                open.pop();
            }
            Node::Text(text) => current.push_str(&text),
        }
    }
    Ok(())
}

fn close(current: &mut String, paragraphs: &mut Vec<String>) {
    let paragraph = tidy(current);
    if !paragraph.is_empty() {
        paragraphs.push(paragraph);
    }
    current.clear();
}

/// Removes the marks, the brackets that held nothing else, and the blank before them.
fn tidy(text: &str) -> String {
    if !text.contains(MARK) {
        return text.trim().to_owned();
    }
    let between =
        |c: char| c == MARK || c.is_whitespace() || matches!(c, ',' | ';' | '-' | '–' | '—');
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        // A list of marks, perhaps in brackets: "[1, 2–5]".
        let inner = rest.strip_prefix(['[', '(']).unwrap_or(rest);
        let marks = inner.len() - inner.trim_start_matches(between).len();
        let bracketed = inner.len() < rest.len();
        let list = &inner[..marks];
        let after = &inner[marks..];
        if list.contains(MARK) && bracketed && after.starts_with([']', ')']) {
            out.truncate(out.trim_end().len());
            rest = &after[1..];
        } else if character == MARK {
            // Without brackets only marks, and what joins two of them, go.
            let last = list.rfind(MARK).map_or(0, |at| at + MARK.len_utf8());
            rest = &rest[last.max(MARK.len_utf8())..];
        } else {
            out.push(character);
            rest = &rest[character.len_utf8()..];
        }
    }
    out.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{parse, records};
    use super::*;

    const FILE: &str = r#"<!DOCTYPE article PUBLIC "x" "y.dtd"><article xmlns:xlink="http://x" article-type="research-article" xml:lang="EN">
<front><journal-meta><journal-title>J</journal-title></journal-meta><article-meta>
<article-id pub-id-type="pmid">5</article-id><article-id pub-id-type="pmc">PMC77</article-id>
<title-group><article-title>On <italic>p53</italic><xref ref-type="fn">*</xref></article-title></title-group>
<contrib-group><contrib><name><surname>X</surname></name></contrib></contrib-group>
<abstract><sec><title>Aim</title><p>To see.</p></sec></abstract><abstract abstract-type="graphical"><p>no</p></abstract>
<trans-abstract><p>non</p></trans-abstract></article-meta></front>
<body><sec id="s1"><label>1</label><title>Intro</title><p>Known [<xref ref-type="bibr" rid="B1">1</xref>,<xref ref-type="bibr" rid="B2">2</xref>–<xref ref-type="bibr" rid="B5">5</xref>], and by <xref ref-type="bibr" rid="B3">Smith (2001)</xref><sup><xref ref-type="bibr">7</xref>,<xref ref-type="bibr">8</xref></sup>. See <xref ref-type="fig">Figure 1</xref>.
<fig><caption><p>caption</p></caption></fig></p><table-wrap><table><tr><td>9</td></tr></table></table-wrap>
<p>So <inline-formula><alternatives><tex-math>\alpha</tex-math><mml:math><mml:mi>a</mml:mi></mml:math></alternatives></inline-formula> holds:<list><list-item><p>one</p></list-item><list-item><p>two</p></list-item></list>and more.</p></sec></body>
<back><ref-list><ref>r</ref></ref-list></back><sub-article><body><p>letter</p></body></sub-article></article>"#;

    #[test]
    fn articles_are_read_in_order_without_tables_and_references() {
        let records = records("a.nxml", FILE.as_bytes());
        assert_eq!(records.len(), 1);
        assert_eq!(records[0].title, "On p53*");
        assert_eq!(records[0].identity.as_deref(), Some("PMC:77"));
        assert_eq!(records[0].languages, ["EN"]);
        assert_eq!(
            records[0].paragraphs,
            [
                "Aim",
                "To see.",
                "Intro",
                "Known, and by Smith (2001). See Figure 1.",
                "So  holds:",
                "one",
                "two",
                "and more.",
            ]
        );
    }

    #[test]
    fn a_cut_article_is_damage() {
        for cut in (200..FILE.len() - 1).step_by(7).filter(|&cut| FILE.is_char_boundary(cut)) {
            let (events, error) = parse("a.nxml", &FILE.as_bytes()[..cut]);
            assert!(events.is_empty() && error.is_some(), "cut at {cut}");
        }
    }

    #[test]
    fn marks_go_with_their_brackets() {
        for (text, expected) in [
            ("a [\u{E000}].", "a."),
            ("a (\u{E000}, \u{E000}) b", "a b"),
            ("a\u{E000},\u{E000} b", "a b"),
            ("a, \u{E000}", "a,"),
            ("(see \u{E000})", "(see )"),
            ("\u{E000}", ""),
            (" no mark ", "no mark"),
        ] {
            assert_eq!(tidy(text), expected, "{text:?}");
        }
    }
}
