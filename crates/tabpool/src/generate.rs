//! Generation in text: prompts in, text out as it comes.

use std::collections::VecDeque;
use std::sync::Arc;

use tabpool_models::GenerationDefaults;
use tabpool_pipelines::chat::{ChatRequest, ChatTemplate};
use tabpool_pipelines::{Sampling, SpecialTokens, TextStream, TokenRule, Tokenizer};
use tabpool_tensor::Tensor;

use crate::error::Error;
use crate::model::Model;

mod tokens;

pub use tokens::{GenerationFigures, TokenGeneration, TokenPrompt, Tokens};

/// How texts are generated.
#[derive(Clone, Debug)]
pub struct GenerateOptions {
    /// The most tokens of each text, its prompt not counted. Less where the model has no room for as many.
    pub max_new_tokens: usize,
    /// How tokens are chosen: the likeliest by default.
    pub sampling: Sampling,
    /// Texts that end a text where they come up; they are no part of it.
    pub stops: Vec<String>,
    /// Goes on where the model would end.
    pub ignore_ends: bool,
    /// Ids that are never said.
    pub suppressed: Vec<i32>,
    /// Ids that are not said first.
    pub suppressed_first: Vec<i32>,
    /// Rules about the token that follows, applied in turn before one is chosen. They need all logits of every token.
    pub rules: Vec<Arc<dyn TokenRule>>,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self {
            max_new_tokens: 256,
            sampling: Sampling::default(),
            stops: Vec::new(),
            ignore_ends: false,
            suppressed: Vec::new(),
            suppressed_first: Vec::new(),
            rules: Vec::new(),
        }
    }
}

impl GenerateOptions {
    /// What a model's authors suggest.
    #[must_use]
    pub fn suggested(defaults: &GenerationDefaults) -> Self {
        let plain = Sampling::default();
        let sampling = Sampling {
            temperature: if defaults.sample { defaults.temperature.unwrap_or(1.0) } else { 0.0 },
            top_k: defaults.top_k.unwrap_or(plain.top_k),
            top_p: defaults.top_p.unwrap_or(plain.top_p),
            min_p: defaults.min_p.unwrap_or(plain.min_p),
            repetition_penalty: defaults.repetition_penalty.unwrap_or(plain.repetition_penalty),
            seed: plain.seed,
        };
        Self {
            sampling,
            suppressed: defaults.suppressed.clone(),
            suppressed_first: defaults.suppressed_first.clone(),
            ..Self::default()
        }
    }
}

/// Why a text has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Finish {
    /// The model ended it.
    End,
    /// This one of [`GenerateOptions::stops`] came up.
    Stop(String),
    /// It has as many tokens as were wanted, or as the model has room for.
    Length,
}

/// A part of a text, new and final.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextPiece {
    /// Which of the prompts it goes on from.
    pub prompt: usize,
    /// The text; it may be empty where the text ends.
    pub text: String,
    /// Why it ends here, if it does.
    pub finish: Option<Finish>,
}

/// A whole text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GeneratedText {
    /// The text, without its prompt.
    pub text: String,
    /// Why it ends.
    pub finish: Finish,
}

/// Texts that are being generated. Dropping it ends the generation and frees what its worker keeps for it.
#[derive(Debug)]
pub struct TextGeneration {
    tokens: TokenGeneration,
    tokenizer: Tokenizer,
    /// Of each text, while it goes on.
    streams: Vec<Option<TextStream>>,
    stops: Vec<String>,
    ready: VecDeque<TextPiece>,
}

impl Model {
    /// Goes on from a text, or answers it where the model has an encoder: the text comes piece by piece.
    ///
    /// # Errors
    ///
    /// [`Error::Text`] where the model has no tokenizer, [`Error::Generation`] where nothing can follow, [`Error::Pool`] where the
    /// model generates nothing. What goes wrong later comes with the pieces.
    pub fn generate(&self, prompt: &str, options: &GenerateOptions) -> Result<TextGeneration, Error> {
        self.generate_all(&[prompt], options)
    }

    /// The same for several texts at once, which is faster than one after the other. All of them together are one run.
    ///
    /// # Errors
    ///
    /// As [`generate`](Self::generate).
    pub fn generate_all<T: AsRef<str>>(
        &self,
        prompts: &[T],
        options: &GenerateOptions,
    ) -> Result<TextGeneration, Error> {
        self.generate_tokenized(prompts, SpecialTokens::Add, options)
    }

    /// Answers a conversation, written as the model's chat template says.
    ///
    /// # Errors
    ///
    /// As [`generate`](Self::generate), and [`Error::Chat`] where the model has no template or it refuses the conversation.
    pub fn chat(&self, conversation: &ChatRequest, options: &GenerateOptions) -> Result<TextGeneration, Error> {
        let template = self.folder(|folder| ChatTemplate::read(folder, self.handle().model().files()))?;
        // It has the special tokens that the template wants.
        self.generate_tokenized(&[template.render(conversation)?], SpecialTokens::Omit, options)
    }

    /// What this model's authors suggest.
    #[must_use]
    pub fn generate_options(&self) -> GenerateOptions {
        GenerateOptions::suggested(self.handle().model().generation_defaults())
    }

    /// Goes on from ids; for those who have a tokenizer of their own, or none.
    ///
    /// # Errors
    ///
    /// [`Error::Generation`] where nothing can follow, [`Error::Pool`] where the model generates nothing or the ids are none of
    /// its.
    pub fn generate_tokens(&self, prompt: TokenPrompt, options: &GenerateOptions) -> Result<TokenGeneration, Error> {
        TokenGeneration::new(self.handle().clone(), prompt, options)
    }

    /// What generation goes on from where these ids are the text: they are what an encoder of texts reads, if there is one.
    ///
    /// # Errors
    ///
    /// [`Error::Pool`] where the model generates nothing, [`Error::Generation`] where its encoder reads no text.
    pub fn token_prompt(&self, ids: Vec<Vec<i32>>) -> Result<TokenPrompt, Error> {
        match self.handle().generation()?.source() {
            None => Ok(TokenPrompt { ids, source: Vec::new() }),
            Some((signature, _)) if signature.input("input_ids").is_some() => {
                Ok(TokenPrompt { ids: vec![Vec::new(); ids.len()], source: source(&ids)? })
            }
            Some(_) => {
                let reason = "the model reads no text; give it what it reads with `generate_tokens`".to_owned();
                Err(Error::Generation { reason })
            }
        }
    }

    fn generate_tokenized<T: AsRef<str>>(
        &self,
        prompts: &[T],
        special: SpecialTokens,
        options: &GenerateOptions,
    ) -> Result<TextGeneration, Error> {
        let tokenizer = self.tokenizer()?;
        let ids = |text: &T| -> Result<Vec<i32>, Error> {
            let tokenized = tokenizer.tokenize(text.as_ref(), special)?;
            // Ids of a vocabulary fit; one that does not is refused with every other id outside of the model's table.
            Ok(tokenized.ids.into_iter().map(|id| i32::try_from(id).unwrap_or(i32::MAX)).collect())
        };
        let ids = prompts.iter().map(ids).collect::<Result<Vec<_>, _>>()?;
        let prompt = self.token_prompt(ids)?;
        let stops: Vec<&str> = options.stops.iter().map(String::as_str).collect();
        let stream = TextStream::new(&stops)?;
        Ok(TextGeneration {
            tokens: self.generate_tokens(prompt, options)?,
            tokenizer: tokenizer.clone(),
            streams: vec![Some(stream); prompts.len()],
            stops: options.stops.clone(),
            ready: VecDeque::new(),
        })
    }
}

/// What an encoder of texts reads: ids, padded on the right to the longest, and which of them count.
fn source(texts: &[Vec<i32>]) -> Result<Vec<(String, Tensor)>, Error> {
    let longest = texts.iter().map(Vec::len).max().unwrap_or(0);
    let rows = |of: &dyn Fn(&Vec<i32>) -> Vec<i32>| {
        let padded = texts.iter().flat_map(|text| {
            let mut row = of(text);
            row.resize(longest, 0);
            row
        });
        Tensor::from_i32([texts.len(), longest], padded.collect::<Vec<_>>())
    };
    let ids = rows(&Vec::clone)?;
    let mask = rows(&|text| vec![1; text.len()])?;
    Ok(vec![("input_ids".to_owned(), ids), ("attention_mask".to_owned(), mask)])
}

impl TextGeneration {
    /// The next piece of some text; `None` when all have ended.
    ///
    /// # Errors
    ///
    /// [`Error::Pool`], [`Error::Text`] where the tokens are no text.
    pub async fn next(&mut self) -> Result<Option<TextPiece>, Error> {
        loop {
            if let Some(piece) = self.ready.pop_front() {
                return Ok(Some(piece));
            }
            match self.tokens.next().await? {
                Some(tokens) => self.read(&tokens)?,
                None if self.streams.iter().all(Option::is_none) => return Ok(None),
                None => self.finish_all()?,
            }
        }
    }

    /// Waits for all texts; in the order of their prompts.
    ///
    /// # Errors
    ///
    /// As [`next`](Self::next); texts that are done by then are lost.
    pub async fn collect(mut self) -> Result<Vec<GeneratedText>, Error> {
        let empty = GeneratedText { text: String::new(), finish: Finish::Length };
        let mut texts = vec![empty; self.tokens.texts()];
        while let Some(piece) = self.next().await? {
            let text = &mut texts[piece.prompt];
            text.text.push_str(&piece.text);
            if let Some(finish) = piece.finish {
                text.finish = finish;
            }
        }
        Ok(texts)
    }

    /// The tokens of a text so far.
    #[must_use]
    pub fn ids(&self, prompt: usize) -> &[i32] {
        self.tokens.said(prompt)
    }

    /// What it took so far.
    #[must_use]
    pub fn figures(&self) -> &GenerationFigures {
        self.tokens.figures()
    }

    fn read(&mut self, tokens: &Tokens) -> Result<(), Error> {
        for (prompt, id) in tokens.ids.iter().enumerate() {
            let (Some(id), Some(stream)) = (*id, self.streams[prompt].as_mut()) else { continue };
            if self.tokens.is_end(id) {
                self.finish(prompt, Finish::End)?;
                continue;
            }
            let said = stream.push(&self.tokenizer, u32::try_from(id).unwrap_or(u32::MAX))?;
            let finish = said.stop.map(|stop| Finish::Stop(self.stops[stop].clone()));
            if finish.is_some() {
                self.streams[prompt] = None;
                self.tokens.end(prompt);
            }
            if finish.is_some() || !said.text.is_empty() {
                self.ready.push_back(TextPiece { prompt, text: said.text, finish });
            }
        }
        Ok(())
    }

    /// A text has no further tokens: what was held back of it comes out.
    fn finish(&mut self, prompt: usize, finish: Finish) -> Result<(), Error> {
        let Some(stream) = self.streams[prompt].take() else { return Ok(()) };
        let rest = stream.finish(&self.tokenizer)?;
        let finish = rest.stop.map_or(finish, |stop| Finish::Stop(self.stops[stop].clone()));
        self.ready.push_back(TextPiece { prompt, text: rest.text, finish: Some(finish) });
        Ok(())
    }

    fn finish_all(&mut self) -> Result<(), Error> {
        (0..self.streams.len()).try_for_each(|prompt| self.finish(prompt, Finish::Length))
    }
}
