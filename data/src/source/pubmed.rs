//! PubMed citation XML: the baseline and update files of the National Library of Medicine.
//!
//! Kept are the PMID with its version, title, abstract with the labels of its sections, languages and
//! whether the work was retracted. Text within markup (italics, sub- and superscripts, MathML) is kept
//! and the markup dropped. Abstracts in other languages, publishers' summaries (`OtherAbstract`) and
//! copyright lines are not.

use super::record::{Record, Registry, Revision};
use super::walk::Xml;
use crate::DataError;
use crate::error::InputProblem;

/// One `PubmedArticle` or `PubmedBookArticle`, whose tag has begun.
pub(crate) fn citation(xml: &mut Xml) -> Result<Record, DataError> {
    let mut record = Record::default();
    let mut vernacular = String::new();
    xml.children(&mut |xml| match xml.name() {
        b"MedlineCitation" | b"BookDocument" => {
            xml.children(&mut |xml| citation_part(xml, &mut record, &mut vernacular))
        }
        _ => xml.skip(),
    })?;
    // A citation without an English title has it in its own language.
    if record.title.trim().is_empty() {
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
            record.title = xml.text()?;
            Ok(())
        }
        b"VernacularTitle" => {
            *vernacular = xml.text()?;
            Ok(())
        }
        b"Abstract" => xml.children(&mut |xml| match xml.name() {
            b"AbstractText" => {
                let label = xml.attribute("Label").filter(|label| {
                    !label.trim().is_empty() && !label.eq_ignore_ascii_case("unlabelled")
                });
                let text = xml.text()?;
                if !text.trim().is_empty() {
                    record.paragraphs.push(match label {
                        Some(label) => format!("{}: {text}", label.trim()),
                        None => text,
                    });
                }
                Ok(())
            }
            _ => xml.skip(),
        }),
        b"Language" => {
            record.languages.push(xml.text()?.trim().to_owned());
            Ok(())
        }
        b"PublicationTypeList" => xml.children(&mut |xml| publication_type(xml, record)),
        b"PublicationType" => publication_type(xml, record),
        _ => xml.skip(),
    }
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
    use super::super::testing::{parse, records};

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
    fn damage_is_named_by_byte_and_what_came_before_is_kept() {
        for (from, to, says) in [
            ("</PubmedArticleSet>", "", "breaks off"),
            ("<PMID>18</PMID>", "<PMID>18</pmid>", "well-formed"),
            ("<PMID>18</PMID>", "<PMID>x8</PMID>", "not a PMID"),
            ("Titel", "&lol;", "&lol;"),
            ("Titel", "<i>", "well-formed"),
        ] {
            let bytes = FILE.replacen(from, to, 1);
            let (events, error) = parse("a.xml", bytes.as_bytes());
            let message = error.expect("damaged").to_string();
            assert!(message.contains("a.xml, byte ") && message.contains(says), "{message}");
            assert!(matches!(events[0], Event::Record(_)));
        }
        for cut in 0..FILE.len() {
            if FILE.is_char_boundary(cut) && cut < FILE.len() - 1 {
                assert!(parse("a.xml", &FILE.as_bytes()[..cut]).1.is_some(), "cut at {cut}");
            }
        }
        let deep = "<a>".repeat(400);
        assert!(parse("a.xml", deep.as_bytes()).1.expect("deep").to_string().contains("deep"));
    }
}
