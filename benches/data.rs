//! Times the way of a text: XML to documents, and documents to token ids with both kinds of tokenizer.
//!
//! `cargo bench --bench data` runs on one thread and invents its text, so it needs no corpus; name a
//! part of a benchmark's name to choose. The throughput is in bytes of XML or of text.
//! `mediswift data prepare` prints how long each step took on a corpus of yours.

use std::path::Path;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mediswift_data::clean::Cleaning;
use mediswift_data::source::{Event, read_bytes};
use mediswift_data::synth;
use mediswift_data::tokenizer::{Kind, Tokenizer, moses};

const DOCUMENTS: usize = 4000;
const VOCABULARY: usize = 8192;

/// Citations as PubMed's files have them, with what else stands in a record.
fn xml() -> String {
    let citations = synth::records(1).take(DOCUMENTS).zip(1..).map(|(record, number)| {
        format!(
            "<PubmedArticle>\n<MedlineCitation Status=\"MEDLINE\" Owner=\"NLM\">\n\
             <PMID Version=\"1\">{number}</PMID>\n<Article PubModel=\"Print\">\n<Journal>\
             <ISSN IssnType=\"Print\">0000-0000</ISSN><Title>A Journal</Title></Journal>\n\
             <ArticleTitle>{}</ArticleTitle>\n<Abstract><AbstractText>{}</AbstractText></Abstract>\n\
             <AuthorList CompleteYN=\"Y\"><Author ValidYN=\"Y\"><LastName>One</LastName>\
             <ForeName>An</ForeName></Author></AuthorList><Language>eng</Language></Article>\n\
             <MeshHeadingList><MeshHeading><DescriptorName UI=\"D0\" MajorTopicYN=\"N\">Humans\
             </DescriptorName></MeshHeading></MeshHeadingList>\n</MedlineCitation>\n\
             </PubmedArticle>\n",
            escaped(&record.title),
            escaped(&record.r#abstract),
        )
    });
    format!("<PubmedArticleSet>\n{}</PubmedArticleSet>\n", citations.collect::<String>())
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// The texts of all documents of a file.
fn documents(name: &str, bytes: &[u8]) -> Vec<String> {
    let cleaning = Cleaning::default();
    let mut texts = Vec::new();
    read_bytes(Path::new(name), bytes, &mut |event| {
        if let Event::Record(record) = event
            && let Ok(document) = cleaning.clean(record)
        {
            texts.push(document.text);
        }
        Ok(())
    })
    .expect("a whole file");
    texts
}

fn data(criterion: &mut Criterion) {
    let xml = xml();
    let texts = documents("synthetic.xml", xml.as_bytes());
    assert_eq!(texts.len(), DOCUMENTS);

    let mut group = criterion.benchmark_group("read");
    group.throughput(Throughput::Bytes(xml.len() as u64));
    group.bench_function("PubMed XML", |bench| {
        bench.iter(|| documents("synthetic.xml", xml.as_bytes()));
    });
    group.finish();

    let mut group = criterion.benchmark_group("encode");
    group.throughput(Throughput::Bytes(texts.iter().map(|text| text.len() as u64).sum()));
    for kind in [Kind::ByteBpe, Kind::MosesBpe(moses::Options::default())] {
        let learn = texts.iter().map(|text| Ok(text.clone()));
        let tokenizer = Tokenizer::train(kind, learn, VOCABULARY, 2).expect("there is text");
        group.bench_function(kind.name(), |bench| {
            // An encoder that knows no word yet, as each thread of `prepare` begins with.
            bench.iter(|| {
                let (mut encoder, mut ids) = (tokenizer.encoder(), Vec::new());
                texts.iter().for_each(|text| encoder.encode(text, &mut ids));
                ids
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(3));
    targets = data
}
criterion_main!(benches);
