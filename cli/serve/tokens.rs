//! `/tokenize`, `/detokenize` and `/tokenizer_info`: the tokenizer for clients that have none.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::object::AtMost;
use super::problem::Problem;
use super::prompt::MOST_TOKENS;
use super::service::Service;

/// A text to tokenize.
#[derive(Deserialize)]
pub struct Tokenize {
    prompt: String,
}

/// The tokens of a text.
#[derive(Serialize)]
struct Tokens {
    tokens: Vec<u32>,
    count: usize,
    max_model_len: usize,
}

/// Tokens to make a text of.
#[derive(Deserialize)]
pub struct Detokenize {
    tokens: AtMost<u32, MOST_TOKENS>,
}

/// The name of the token between documents.
fn end_of_text(service: &Service) -> Result<String, Problem> {
    let end = [service.tokenizer.end_of_text()];
    let names = service.tokenizer.tokens(&end).map_err(|e| Problem::bad(None, e.to_string()))?;
    Ok(names.concat())
}

/// The special tokens. The end of one document is the beginning of the next.
pub fn describe(service: &Service) -> Result<Value, Problem> {
    let end = end_of_text(service)?;
    Ok(json!({
        "tokenizer_class": service.tokenizer.kind().name(),
        "vocab_size": service.tokenizer.vocab_size(),
        "model_max_length": service.gpt.size().context,
        "eos_token": end,
        "bos_token": end,
    }))
}

/// The ids of a text. The name of the end token, alone, is that token, so that clients can ask for
/// its id; within a text it is ordinary text.
pub fn tokenize(service: &Service, Tokenize { prompt }: Tokenize) -> Result<String, Problem> {
    let ids = if prompt == end_of_text(service)? {
        vec![service.tokenizer.end_of_text()]
    } else {
        service.tokenizer.encode(&prompt)
    };
    let (count, max_model_len) = (ids.len(), service.gpt.size().context);
    let json = serde_json::to_string(&Tokens { tokens: ids, count, max_model_len });
    Ok(json.expect("plain data"))
}

/// The text of ids.
pub fn detokenize(service: &Service, Detokenize { tokens }: Detokenize) -> Result<Value, Problem> {
    let text = service.tokenizer.decode(&tokens.0);
    let text = text.map_err(|error| Problem::bad("tokens", error.to_string()))?;
    Ok(json!({ "prompt": text }))
}
