//! PubMed citation XML: the baseline and update files of the National Library of Medicine.
//!
//! Kept are the PMID with its version, title, abstract with the labels of its sections, languages and
//! whether the work was retracted. Text within markup (italics, sub- and superscripts, MathML) is kept
//! and the markup dropped; white space within a title or a part of an abstract is one blank. An abstract
//! in another language (`OtherAbstract`) is a translation; one in the same language, which is a
//! publisher's summary or one for patients, and copyright lines are not kept.

use super::prose::one_line;
use super::record::{Record, Registry, Revision, Translation};
use super::walk::{Node, Xml};
use crate::DataError;
use crate::clean::two_letters;
use crate::error::InputProblem;

/// One `PubmedArticle` or `PubmedBookArticle`, whose tag has begun.
pub(crate) fn citation(xml: &mut Xml) -> Result<Record, DataError> {
    let mut record = Record::default();
    xml.children(&mut |xml| match xml.name() {
        b"MedlineCitation" | b"BookDocument" => {
            record = medline(xml)?;
            Ok(())
        }
        _ => xml.skip(),
    })?;
    Ok(record)
}

/// One `MedlineCitation` or `BookDocument`, whose tag has begun.
pub(crate) fn medline(xml: &mut Xml) -> Result<Record, DataError> {
    let mut record = Record::default();
    let mut vernacular = String::new();
    xml.children(&mut |xml| citation_part(xml, &mut record, &mut vernacular))?;
    let own: Vec<String> = record.languages.iter().map(|l| two_letters(l)).collect();
    record.translations.retain(|part| !own.contains(&two_letters(&part.language)));
    // A citation without an English title has it in its own language.
    if record.title.is_empty() {
        record.title = vernacular;
    }
    Ok(record)
}

fn citation_part(
    xml: &mut Xml,
    record: &mut Record,
    vernacular: &mut String,
) -> Result<(), DataError> {
    match xml.name() {
        b"PMID" => {
            let version = xml.attribute("Version").and_then(|v| v.parse().ok()).unwrap_or(1);
            let number = number(xml)?;
            record.identity = Some(format!("PMID:{number}"));
            record.revision = Some(Revision { registry: Registry::PubMed, number, version });
            Ok(())
        }
        b"Article" => xml.children(&mut |xml| citation_part(xml, record, vernacular)),
        b"ArticleTitle" => {
            record.title = text(xml)?;
            Ok(())
        }
        b"VernacularTitle" => {
            *vernacular = text(xml)?;
            Ok(())
        }
        b"Abstract" => summary(xml, &mut record.paragraphs),
        b"OtherAbstract" => {
            let language = xml.attribute("Language").unwrap_or_default();
            let mut part = Translation { language, ..Translation::default() };
            summary(xml, &mut part.paragraphs)?;
            if !part.language.trim().is_empty() {
                record.translations.push(part);
            }
            Ok(())
        }
        b"Language" => {
            record.languages.push(xml.text()?.trim().to_owned());
            Ok(())
        }
        b"PublicationTypeList" => xml.children(&mut |xml| publication_type(xml, record)),
        b"PublicationType" => publication_type(xml, record),
        _ => xml.skip(),
    }
}

/// The parts of an abstract, whose tag has begun, a paragraph each.
fn summary(xml: &mut Xml, paragraphs: &mut Vec<String>) -> Result<(), DataError> {
    xml.children(&mut |xml| match xml.name() {
        b"AbstractText" => {
            let label = xml
                .attribute("Label")
                .map(|label| one_line(&label))
                .filter(|label| !label.is_empty() && !label.eq_ignore_ascii_case("unlabelled"));
            let text = text(xml)?;
            if !text.is_empty() {
                paragraphs.push(match label {
                    Some(label) => format!("{label}: {text}"),
                    None => text,
                });
            }
            Ok(())
        }
        _ => xml.skip(),
    })
}

/// All text of the element that began last, markup aside, on one line. A displayed formula is apart
/// from the words around it.
fn text(xml: &mut Xml) -> Result<String, DataError> {
    let mut text = String::new();
    // Per open element: is it displayed by itself?
    let mut open = vec![false];
    while let Some(&is_apart) = open.last() {
        match xml.within()? {
            Node::Start => {
                let is_apart = xml.name() == b"DispFormula";
                text.push_str(if is_apart { " " } else { "" });
                open.push(is_apart);
            }
            Node::End => {
                text.push_str(if is_apart { " " } else { "" });
                open.pop();
            }
            Node::Text(part) => text.push_str(&part),
        }
    }
    Ok(one_line(&text))
}

fn publication_type(xml: &mut Xml, record: &mut Record) -> Result<(), DataError> {
    record.retracted |= xml.text()?.trim() == "Retracted Publication";
    Ok(())
}

/// The PMIDs of a `DeleteCitation`, whose tag has begun.
pub(crate) fn deleted(xml: &mut Xml) -> Result<Vec<u64>, DataError> {
    let mut numbers = Vec::new();
    xml.children(&mut |xml| {
        numbers.push(number(xml)?);
        Ok(())
    })?;
    Ok(numbers)
}

fn number(xml: &mut Xml) -> Result<u64, DataError> {
    let text = xml.text()?;
    let found = text.trim();
    found.parse().map_err(|_| xml.wrong(InputProblem::NotAPmid { found: found.to_owned() }))
}

#[cfg(test)]
mod tests {
    use super::super::Event;
    use super::super::testing::{damages, parse, records};

    const FILE: &str = r#"<?xml version="1.0"?><!DOCTYPE PubmedArticleSet SYSTEM "x.dtd">
<PubmedArticleSet>
<PubmedArticle><MedlineCitation><PMID Version="2">17</PMID><Article>
<ArticleTitle>Effect of CO<sub>2</sub> &amp; <i>E. coli</i> &#x3b2;</ArticleTitle>
<Abstract><AbstractText Label="AIM">To <b>see</b>.</AbstractText><AbstractText Label="UNLABELLED"><![CDATA[p < 0.05]]></AbstractText><AbstractText/>
<CopyrightInformation>(c)</CopyrightInformation></Abstract>
<AuthorList><Author><LastName>X</LastName></Author></AuthorList>
<Language>eng</Language><PublicationTypeList><PublicationType UI="1">Retracted Publication</PublicationType></PublicationTypeList>
</Article><OtherAbstract><AbstractText>autre</AbstractText></OtherAbstract>
<CommentsCorrectionsList><CommentsCorrections><PMID Version="1">99</PMID></CommentsCorrections></CommentsCorrectionsList>
</MedlineCitation><PubmedData><ArticleIdList><ArticleId IdType="pubmed">17</ArticleId></ArticleIdList></PubmedData></PubmedArticle>
<PubmedArticle><MedlineCitation><PMID>18</PMID><Article><ArticleTitle/><VernacularTitle>Titel</VernacularTitle></Article></MedlineCitation></PubmedArticle>
<DeleteCitation><PMID Version="1">3</PMID><PMID>4</PMID></DeleteCitation>
</PubmedArticleSet>"#;

    #[test]
    fn citations_are_read() {
        let records = records("a.xml", FILE.as_bytes());
        assert_eq!(records.len(), 2);
        assert_eq!(records[0].title, "Effect of CO2 & E. coli β");
        assert_eq!(records[0].paragraphs, ["AIM: To see.", "p < 0.05"]);
        assert_eq!(records[0].identity.as_deref(), Some("PMID:17"));
        let revision = records[0].revision.expect("a PMID");
        assert_eq!((revision.number, revision.version), (17, 2));
        assert!(records[0].retracted && !records[1].retracted);
        assert_eq!(records[0].languages, ["eng"]);
        assert_eq!((records[1].title.as_str(), records[1].paragraphs.len()), ("Titel", 0));
        let (events, _) = parse("a.xml", FILE.as_bytes());
        assert!(events.iter().any(|e| matches!(e, Event::Deleted(d) if d == &[3, 4])));
    }

    #[test]
    fn damage_is_named_by_byte_and_costs_one_record() {
        for (from, to, says) in [
            ("</PubmedArticleSet>", "", "breaks off"),
            ("<PMID>18</PMID>", "<PMID>18</pmid>", "well-formed"),
            ("<PMID>18</PMID>", "<PMID>x8</PMID>", "not a PMID"),
            ("Titel", "&lol;", "&lol;"),
            ("Titel", "<i>", "well-formed"),
        ] {
            let bytes = FILE.replacen(from, to, 1);
            let (found, damages) = damages("a.xml", bytes.as_bytes());
            assert_eq!(damages.len(), 1, "{damages:?}");
            assert!(
                damages[0].contains("a.xml, byte ") && damages[0].contains(says),
                "{damages:?}"
            );
            assert_eq!(found[0].identity.as_deref(), Some("PMID:17"));
            let (events, _) = parse("a.xml", bytes.as_bytes());
            assert!(events.iter().any(|e| matches!(e, Event::Deleted(d) if d == &[3, 4])));
        }
        for cut in 0..FILE.len() {
            if FILE.is_char_boundary(cut) && cut < FILE.len() - 1 {
                let (_, damages) = damages("a.xml", &FILE.as_bytes()[..cut]);
                assert!(!damages.is_empty(), "cut at {cut}");
            }
        }
        let deep = format!("<article>{}</article>", "<a>".repeat(400));
        let (_, damages) = damages("a.xml", deep.as_bytes());
        assert!(damages[0].contains("deep"), "{damages:?}");
    }

    #[test]
    fn white_space_is_one_blank_and_formulae_are_apart() {
        let text = "<MedlineCitationSet><MedlineCitation><PMID>1</PMID><Article>\
            <ArticleTitle>A wrapped\n title.</ArticleTitle><Abstract><AbstractText Label=\"THE\nAIM\">\
            To see\n\t it,<DispFormula>k = 2</DispFormula>where k\r\nis known.</AbstractText>\
            </Abstract></Article></MedlineCitation></MedlineCitationSet>";
        let found = &records("a.xml", text.as_bytes())[0];
        assert_eq!(found.title, "A wrapped title.");
        assert_eq!(found.paragraphs, ["THE AIM: To see it, k = 2 where k is known."]);
    }

    #[test]
    fn abstracts_in_other_languages_are_translations() {
        let other = |language: &str, text: &str| {
            format!(
                "<OtherAbstract Language=\"{language}\"><AbstractText>{text}</AbstractText></OtherAbstract>"
            )
        };
        let text = format!(
            "<MedlineCitation><PMID>1</PMID><Article><ArticleTitle>T</ArticleTitle><Abstract>\
             <AbstractText>own</AbstractText></Abstract><Language>eng</Language></Article>{}{}{}\
             </MedlineCitation>",
            other("spa", "suyo"),
            other("en", "summary"),
            other("", "?"),
        );
        let found = &records("a.xml", text.as_bytes())[0];
        assert_eq!(found.paragraphs, ["own"]);
        let parts: Vec<_> =
            found.translations.iter().map(|t| (&*t.language, &*t.paragraphs[0])).collect();
        assert_eq!(parts, [("spa", "suyo")]);
    }
}
