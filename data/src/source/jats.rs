//! JATS: full articles as PubMed Central has them.
//!
//! Kept are the title, the abstract and the body in reading order, a paragraph or heading each, white
//! space within it as one blank. Left out are tables, figures, displayed formulae and the markup of
//! formulae, footnotes, the list of references and the marks that point there when they are numbers (see
//! `prose`), graphical abstracts, letters attached to the article, and everything after the body.
//! What declares another language than the article (an abstract or its translation, a translated title,
//! an attached translation of the whole) is a translation.

use super::prose::Paragraph;
use super::record::{Record, Registry, Revision, Translation};
use super::walk::{Node, Xml};
use crate::DataError;
use crate::clean::two_letters;

/// Elements that stand among the words, or between them, and hold no running text.
const LEFT_OUT: [&[u8]; 22] = [
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
    b"array",
    b"code",
    b"preformat",
];

/// Elements that nobody sees where they stand.
const UNSEEN: [&[u8]; 8] = [
    b"label",
    b"object-id",
    b"permissions",
    b"sec-meta",
    b"index-term",
    b"processing-meta",
    b"alt-text",
    b"long-desc",
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
        b"sub-article" => attached(xml, &mut record),
        _ => xml.skip(),
    })?;
    record.identity = record.identity.or(pmid).or(doi);
    Ok(record)
}

/// The record's part in a language that is not its own.
fn translation(record: &mut Record, language: String) -> &mut Translation {
    let same = |part: &Translation| two_letters(&part.language) == two_letters(&language);
    let at = record.translations.iter().position(same).unwrap_or(record.translations.len());
    if at == record.translations.len() {
        record.translations.push(Translation { language, ..Translation::default() });
    }
    &mut record.translations[at]
}

/// The language that an element declares, if it is not the record's.
fn other_language(xml: &Xml, record: &Record) -> Option<String> {
    let language = xml.attribute("lang").filter(|language| !language.trim().is_empty())?;
    let is_own = |own: &String| two_letters(own) == two_letters(&language);
    (!record.languages.iter().any(is_own)).then_some(language)
}

/// A `sub-article`, which is a letter or the like unless it is a translation.
fn attached(xml: &mut Xml, record: &mut Record) -> Result<(), DataError> {
    let is_translation = xml.attribute("article-type").as_deref() == Some("translation");
    let language = other_language(xml, record).filter(|_| is_translation);
    let Some(language) = language else { return xml.skip() };
    let part = translation(record, language);
    xml.children(&mut |xml| match xml.name() {
        b"front" | b"front-stub" => xml.children(&mut |xml| match xml.name() {
            b"article-meta" => xml.children(&mut |xml| translated_meta(xml, part)),
            _ => translated_meta(xml, part),
        }),
        b"body" => prose(xml, &mut part.paragraphs),
        _ => xml.skip(),
    })
}

fn translated_meta(xml: &mut Xml, part: &mut Translation) -> Result<(), DataError> {
    match xml.name() {
        b"title-group" => xml.children(&mut |xml| match xml.name() {
            b"article-title" => {
                part.title = title(xml)?;
                Ok(())
            }
            _ => xml.skip(),
        }),
        b"abstract" if is_prose(xml) => prose(xml, &mut part.paragraphs),
        _ => xml.skip(),
    }
}

/// Whether the abstract whose tag has begun is one to read.
fn is_prose(xml: &Xml) -> bool {
    let kind = xml.attribute("abstract-type").unwrap_or_default();
    !matches!(kind.as_str(), "graphical" | "toc" | "teaser" | "video" | "audio")
}

fn title(xml: &mut Xml) -> Result<String, DataError> {
    let mut parts = Vec::new();
    prose(xml, &mut parts)?;
    Ok(parts.join(" "))
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
                record.title = title(xml)?;
                Ok(())
            }
            b"trans-title-group" => {
                let Some(language) = other_language(xml, record) else { return xml.skip() };
                let part = translation(record, language);
                xml.children(&mut |xml| match xml.name() {
                    b"trans-title" => {
                        part.title = title(xml)?;
                        Ok(())
                    }
                    _ => xml.skip(),
                })
            }
            _ => xml.skip(),
        }),
        b"abstract" | b"trans-abstract" if is_prose(xml) => {
            let is_own = xml.name() == b"abstract";
            if is_own && record.languages.is_empty() {
                record.languages.extend(xml.attribute("lang"));
            }
            match other_language(xml, record) {
                Some(language) => prose(xml, &mut translation(record, language).paragraphs),
                None if is_own => prose(xml, &mut record.paragraphs),
                None => xml.skip(),
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
    let mut current = Paragraph::default();
    // Per open element: does it begin a paragraph of its own, does it stand above the line?
    let mut open = vec![(true, false)];
    while let Some(&(is_block, is_raised)) = open.last() {
        match xml.within()? {
            Node::Start => {
                let name = xml.name();
                if UNSEEN.contains(&name) {
                    xml.skip()?;
                    continue;
                }
                if LEFT_OUT.contains(&name) {
                    current.gap();
                    xml.skip()?;
                    continue;
                }
                let (block, raised) = (BLOCKS.contains(&name), is_raised || name == b"sup");
                if name == b"xref" && xml.attribute("ref-type").as_deref() == Some("bibr") {
                    let (text, raised_within) = reference(xml)?;
                    current.reference(&text, raised || raised_within);
                    continue;
                }
                match name {
                    b"break" => current.push(" "),
                    b"term" | b"def" => close(&mut current, paragraphs),
                    _ => {}
                }
                if block {
                    close(&mut current, paragraphs);
                }
                open.push((block, raised));
            }
            Node::End => {
                if is_block {
                    close(&mut current, paragraphs);
                }
                open.pop();
            }
            Node::Text(text) => current.push(&text),
        }
    }
    Ok(())
}

/// The text of a reference, and whether it stands above the line.
fn reference(xml: &mut Xml) -> Result<(String, bool), DataError> {
    let (mut text, mut raised) = (String::new(), false);
    let mut open = 1;
    while open > 0 {
        match xml.within()? {
            Node::Start => {
                raised |= xml.name() == b"sup";
                open += 1;
            }
            Node::End => open -= 1,
            Node::Text(part) => text.push_str(&part),
        }
    }
    Ok((text, raised))
}

fn close(current: &mut Paragraph, paragraphs: &mut Vec<String>) {
    let paragraph = current.take();
    if !paragraph.is_empty() {
        paragraphs.push(paragraph);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{damages, records};

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
                "So holds:",
                "one",
                "two",
                "and more.",
            ]
        );
    }

    #[test]
    fn a_cut_article_is_damage() {
        for cut in (200..FILE.len() - 1).step_by(7).filter(|&cut| FILE.is_char_boundary(cut)) {
            let (found, damages) = damages("a.nxml", &FILE.as_bytes()[..cut]);
            assert!(found.is_empty() && damages.len() == 1, "cut at {cut}: {damages:?}");
        }
    }

    #[test]
    fn line_breaks_of_the_source_are_blanks() {
        let wrapped = FILE.replace(' ', "\n  ").replace("<article\n  ", "<article ");
        let (plain, wrapped) =
            (records("a.nxml", FILE.as_bytes()), records("a.nxml", wrapped.as_bytes()));
        assert_eq!(plain, wrapped);
        for text in plain[0].paragraphs.iter().chain([&plain[0].title]) {
            assert!(!text.contains(['\n', '\t']) && !text.contains("  "), "{text:?}");
        }
    }

    #[test]
    fn blocks_that_are_left_out_are_no_glue() {
        let file = "<article><body><p>Given by<disp-formula><math><mi>k</mi></math></disp-formula>where \
            k, seen<fig><caption><p>c</p></caption></fig>Next it <bold>f</bold>ell in \
            C<index-term><term>x</term></index-term>O<sub>2</sub>.</p></body></article>";
        let found = &records("a.nxml", file.as_bytes())[0];
        assert_eq!(found.paragraphs, ["Given by where k, seen Next it fell in CO2."]);
    }

    #[test]
    fn every_part_has_its_language() {
        let file = |language: &str| {
            format!(
                "<article{language}><front><article-meta><title-group><article-title>Own</article-title>\
                 <trans-title-group xml:lang=\"es\"><trans-title>Suyo</trans-title></trans-title-group>\
                 </title-group><abstract xml:lang=\"en-GB\"><p>In English.</p></abstract>\
                 <abstract xml:lang=\"es\"><p>En castellano.</p></abstract>\
                 <trans-abstract xml:lang=\"de\"><p>Auf Deutsch.</p></trans-abstract>\
                 <trans-abstract><p>Unknown.</p></trans-abstract></article-meta></front>\
                 <body><p>The body.</p></body>\
                 <sub-article article-type=\"translation\" xml:lang=\"pt\"><front-stub><title-group>\
                 <article-title>Outro</article-title></title-group></front-stub><body><p>O corpo.</p></body>\
                 </sub-article><sub-article article-type=\"reply\" xml:lang=\"fr\"><body><p>Non.</p></body>\
                 </sub-article></article>"
            )
        };
        for language in [" xml:lang=\"en\"", ""] {
            let found = &records("a.nxml", file(language).as_bytes())[0];
            let mut parts: Vec<String> = found
                .translations
                .iter()
                .map(|part| {
                    format!("{} {}: {}", part.language, part.title, part.paragraphs.join("|"))
                })
                .collect();
            // Without a language of its own, the article has that of its abstract.
            parts.sort();
            assert_eq!(
                parts,
                ["de : Auf Deutsch.", "es Suyo: En castellano.", "pt Outro: O corpo."]
            );
            assert_eq!(found.paragraphs, ["In English.", "The body."]);
        }
    }
}
