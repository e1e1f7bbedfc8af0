//! Old folders of BERT models: a `vocab.txt` with one token a line, and no `tokenizer.json`.
//!
//! The tokenizer is described as a `tokenizer.json` would describe it and then read in the same way, so that both kinds
//! of folder give equal ids.

use std::collections::BTreeMap;

use serde_json::json;

use crate::TextError;
use crate::config::Options;
use crate::tokenizer::parse;

/// Names of tokenizer classes whose `vocab.txt` is read. Others use the file in other ways.
const CLASSES: [&str; 4] = ["BertTokenizer", "BertTokenizerFast", "DistilBertTokenizer", "DistilBertTokenizerFast"];

/// The WordPiece tokenizer of this vocabulary. `options` are those of `tokenizer_config.json`.
pub(crate) fn wordpiece(file: &str, bytes: &[u8], options: &Options) -> Result<tokenizers::Tokenizer, TextError> {
    if let Some(class) = options.text("tokenizer_class")?
        && !CLASSES.contains(&class)
    {
        return Err(options.refuse("tokenizer_class", "for which a tokenizer.json is needed").into());
    }
    let unreadable = |reason: String| TextError::File { file: file.to_owned(), reason };
    let text = std::str::from_utf8(bytes).map_err(|e| unreadable(e.to_string()))?;
    // Where a token stands on two lines the later one counts, as in the library that wrote such files.
    let vocab: BTreeMap<&str, usize> = text.lines().enumerate().map(|(id, token)| (token, id)).collect();
    let special = |key: &str, default: &str| -> Result<(String, usize), TextError> {
        let token = options.token(key)?.unwrap_or(default);
        let id = vocab.get(token).ok_or_else(|| unreadable(format!("it lacks the {key} {token:?}")))?;
        Ok((token.to_owned(), *id))
    };
    let (unknown, separator, class) =
        (special("unk_token", "[UNK]")?, special("sep_token", "[SEP]")?, special("cls_token", "[CLS]")?);
    let mut added = vec![unknown.clone(), separator.clone(), class.clone()];
    // Texts rarely hold these two, and not every vocabulary does.
    added.extend(special("pad_token", "[PAD]"));
    added.extend(special("mask_token", "[MASK]"));
    added.sort_by_key(|(_, id)| *id);
    added.dedup();
    let added: Vec<_> = added
        .iter()
        .map(|(token, id)| {
            json!({"id": id, "content": token, "special": true, "single_word": false, "lstrip": false,
                   "rstrip": false, "normalized": false})
        })
        .collect();
    let description = json!({
        "version": "1.0",
        "added_tokens": added,
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": true,
            "handle_chinese_chars": options.flag("tokenize_chinese_chars", true)?,
            "strip_accents": options.get("strip_accents"),
            "lowercase": options.flag("do_lower_case", true)?,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "BertProcessing",
            "sep": [separator.0, separator.1],
            "cls": [class.0, class.1],
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {
            "type": "WordPiece",
            "unk_token": unknown.0,
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": vocab,
        },
    });
    parse(description.to_string().as_bytes()).map_err(unreadable)
}
