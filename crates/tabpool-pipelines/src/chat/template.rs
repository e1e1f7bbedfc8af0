//! Templates of a folder, what they are given, and the environment they run in.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::value::{Kwargs, Value};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State};
use serde::Serialize;
use tabpool_content::Directory;

use super::{ChatError, calendar, python};
use crate::ConfigError;
use crate::config::{Options, read_options};
use crate::guard::caught;

/// The largest template. Those of published models have at most a few tens of kilobytes.
const MAX_TEMPLATE_BYTES: usize = 1 << 20;
/// The most templates of a folder.
const MAX_TEMPLATES: usize = 64;
/// The largest messages, or tools, or variables, as JSON.
const MAX_REQUEST_BYTES: usize = 16 << 20;
/// The largest text that a template gives.
const MAX_OUTPUT_BYTES: usize = 32 << 20;
/// The steps that a template may take. Published ones take some tens a message.
const FUEL: u64 = 4_000_000;
/// The name of a template that has none.
const DEFAULT: &str = "default";
/// Special tokens that templates may name.
const TOKENS: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];
/// How `raise_exception` is told apart from other failures.
const REFUSAL: &str = "raise_exception: ";

/// The chat templates of a model.
pub struct ChatTemplate {
    environment: Environment<'static>,
    names: Vec<String>,
    tokens: Vec<(&'static str, String)>,
}

impl fmt::Debug for ChatTemplate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut fields = formatter.debug_struct("ChatTemplate");
        fields.field("names", &self.names).field("tokens", &self.tokens).finish_non_exhaustive()
    }
}

impl ChatTemplate {
    /// Reads the templates under `base` (`""`, or a path that ends in `/`): `chat_template.jinja`, or `chat_template` in
    /// `tokenizer_config.json`, which is one template or a list of named ones; special tokens come from that file as well.
    ///
    /// # Errors
    /// [`ChatError::NoTemplate`], [`ChatError::Syntax`], [`ChatError::TooLarge`], [`ChatError::Config`].
    pub fn read(folder: &Directory<'_>, base: &str) -> Result<Self, ChatError> {
        let (jinja, config) = (format!("{base}chat_template.jinja"), format!("{base}tokenizer_config.json"));
        let options = read_options(folder, &config)?;
        let mut templates = Vec::new();
        if folder.contains(&jinja) {
            let bytes = folder.read(&jinja, MAX_TEMPLATE_BYTES as u64).map_err(ConfigError::from)?;
            let text = String::from_utf8(bytes.to_vec())
                .map_err(|e| ConfigError::File { file: jinja.clone(), reason: e.to_string() })?;
            templates.push((DEFAULT.to_owned(), text));
        } else {
            templates = named(&options)?;
        }
        if templates.is_empty() {
            return Err(ChatError::NoTemplate { jinja, config });
        }
        let mut tokens = Vec::new();
        for key in TOKENS {
            tokens.extend(options.token(key)?.map(|token| (key, token.to_owned())));
        }
        Self::of(templates, tokens)
    }

    /// A template that lies in no folder, with the special tokens it may name (`bos_token` and so on).
    ///
    /// # Errors
    /// [`ChatError::Syntax`], [`ChatError::TooLarge`].
    pub fn from_source(source: &str, tokens: &[(&'static str, &str)]) -> Result<Self, ChatError> {
        let tokens = tokens.iter().map(|(key, token)| (*key, (*token).to_owned())).collect();
        Self::of(vec![(DEFAULT.to_owned(), source.to_owned())], tokens)
    }

    fn of(templates: Vec<(String, String)>, tokens: Vec<(&'static str, String)>) -> Result<Self, ChatError> {
        let mut environment = environment();
        let mut names = Vec::new();
        for (name, source) in templates {
            if source.len() > MAX_TEMPLATE_BYTES {
                let (what, bytes, limit) = ("a chat template", source.len(), MAX_TEMPLATE_BYTES);
                return Err(ChatError::TooLarge { what, bytes, limit });
            }
            let source = without_generation(&source);
            // The parser is somebody else's, and so is the template.
            let added = caught(|| environment.add_template_owned(name.clone(), source).map_err(|e| reason(&e)));
            if let Err(reason) = added.unwrap_or_else(Err) {
                return Err(ChatError::Syntax { name, reason });
            }
            names.push(name);
        }
        Ok(Self { environment, names, tokens })
    }

    /// The templates' names; that of one without is "default".
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The text of a conversation. It holds the special tokens that the template wants, so it is to be tokenized without adding
    /// any.
    ///
    /// # Errors
    /// [`ChatError::Refused`] where the template says so, [`ChatError::Render`] where it fails or exceeds a bound,
    /// [`ChatError::UnknownTemplate`].
    pub fn render(&self, request: &ChatRequest) -> Result<String, ChatError> {
        let name = match &request.template {
            Some(name) => name,
            // As in transformers: tools have a template of their own where there are several.
            None if request.tools.is_some() && self.names.iter().any(|n| n == "tool_use") => "tool_use",
            None => DEFAULT,
        };
        let unknown = || ChatError::UnknownTemplate { name: name.to_owned(), known: self.names.clone() };
        let template = self.environment.get_template(name).map_err(|_| unknown())?;
        let none = Value::from(());
        let mut context: Vec<(String, Value)> = vec![
            ("messages".to_owned(), request.messages.clone()),
            ("tools".to_owned(), request.tools.clone().unwrap_or(none.clone())),
            ("documents".to_owned(), request.documents.clone().unwrap_or(none)),
            ("add_generation_prompt".to_owned(), request.generation_prompt.into()),
        ];
        if let Some(now) = request.now_s {
            let now = move |pattern: &str| {
                calendar::strftime(now, pattern)
                    .map_err(|e| Error::new(ErrorKind::InvalidOperation, format!("strftime_now: {e}")))
            };
            context.push(("strftime_now".to_owned(), Value::from_function(now)));
        }
        context.extend(self.tokens.iter().map(|(key, token)| ((*key).to_owned(), token.as_str().into())));
        context.extend(request.variables.iter().cloned());
        let mut output = Bounded { bytes: Vec::new() };
        let context: Value = context.into_iter().collect();
        let rendered =
            caught(|| template.render_captured_to(context, &mut output).map(|_| ()).map_err(|e| failure(&e)));
        rendered.unwrap_or_else(|reason| Err(ChatError::Render { reason }))?;
        String::from_utf8(output.bytes).map_err(|e| ChatError::Render { reason: e.to_string() })
    }
}

/// A conversation to be rendered.
#[derive(Clone, Debug)]
pub struct ChatRequest {
    messages: Value,
    tools: Option<Value>,
    documents: Option<Value>,
    variables: Vec<(String, Value)>,
    generation_prompt: bool,
    template: Option<String>,
    now_s: Option<i64>,
}

impl ChatRequest {
    /// A conversation of these messages: a list of objects with `role`, `content` and whatever else the template knows. Keys
    /// keep the order in which they are serialised.
    ///
    /// # Errors
    /// [`ChatError::Request`] where it is no list of objects, [`ChatError::TooLarge`].
    pub fn new(messages: &impl Serialize) -> Result<Self, ChatError> {
        let json = serde_json::to_vec(messages)
            .map_err(|e| ChatError::Request { what: "messages".to_owned(), reason: e.to_string() })?;
        Self::from_json(&json)
    }

    /// The same from JSON, whose keys keep their order.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn from_json(messages: &[u8]) -> Result<Self, ChatError> {
        let value = parsed("messages", messages)?;
        let objects = value.kind() == minijinja::value::ValueKind::Seq
            && value.try_iter().is_ok_and(|mut items| items.all(|m| m.kind() == minijinja::value::ValueKind::Map));
        if !objects {
            let reason = "they are no list of objects".to_owned();
            return Err(ChatError::Request { what: "messages".to_owned(), reason });
        }
        let (variables, generation_prompt) = (Vec::new(), false);
        Ok(Self {
            messages: value,
            tools: None,
            documents: None,
            variables,
            generation_prompt,
            template: None,
            now_s: None,
        })
    }

    /// Ends the text where the model's answer begins.
    #[must_use]
    pub fn with_generation_prompt(mut self) -> Self {
        self.generation_prompt = true;
        self
    }

    /// Takes the template of this name instead of the default one.
    #[must_use]
    pub fn with_template(mut self, name: impl Into<String>) -> Self {
        self.template = Some(name.into());
        self
    }

    /// Says what time it is, for templates that write the date, which is that of coordinated universal time. Without it there
    /// is no `strftime_now`, and templates that need it fail: nothing here looks at a clock.
    #[must_use]
    pub fn with_time(mut self, now: SystemTime) -> Self {
        let after = now.duration_since(UNIX_EPOCH).map(|d| i64::try_from(d.as_secs()).unwrap_or(i64::MAX / 2));
        self.now_s = Some(after.unwrap_or_else(|e| -i64::try_from(e.duration().as_secs()).unwrap_or(i64::MAX / 2)));
        self
    }

    /// Gives the tools that the model may call, as JSON.
    ///
    /// # Errors
    /// [`ChatError::Request`], [`ChatError::TooLarge`].
    pub fn with_tools_json(mut self, tools: &[u8]) -> Result<Self, ChatError> {
        self.tools = Some(parsed("tools", tools)?);
        Ok(self)
    }

    /// Gives documents that the answer is to rest on, as JSON.
    ///
    /// # Errors
    /// [`ChatError::Request`], [`ChatError::TooLarge`].
    pub fn with_documents_json(mut self, documents: &[u8]) -> Result<Self, ChatError> {
        self.documents = Some(parsed("documents", documents)?);
        Ok(self)
    }

    /// Sets a variable that the template knows, as `enable_thinking`, to a JSON value.
    ///
    /// # Errors
    /// [`ChatError::Request`], [`ChatError::TooLarge`].
    pub fn with_variable_json(mut self, name: impl Into<String>, value: &[u8]) -> Result<Self, ChatError> {
        let name = name.into();
        let value = parsed(&name, value)?;
        self.variables.push((name, value));
        Ok(self)
    }
}

/// A JSON value whose maps keep their order.
fn parsed(what: &str, json: &[u8]) -> Result<Value, ChatError> {
    if json.len() > MAX_REQUEST_BYTES {
        return Err(ChatError::TooLarge {
            what: "what a chat template is given",
            bytes: json.len(),
            limit: MAX_REQUEST_BYTES,
        });
    }
    serde_json::from_slice(json).map_err(|e| ChatError::Request { what: what.to_owned(), reason: e.to_string() })
}

/// The templates in `tokenizer_config.json`.
fn named(options: &Options) -> Result<Vec<(String, String)>, ConfigError> {
    const KEY: &str = "chat_template";
    match options.get(KEY) {
        None => Ok(Vec::new()),
        Some(serde_json::Value::String(text)) => Ok(vec![(DEFAULT.to_owned(), text.clone())]),
        Some(serde_json::Value::Array(list)) if list.len() <= MAX_TEMPLATES => {
            let template = |item: &serde_json::Value| {
                let text = |key: &str| item.get(key).and_then(serde_json::Value::as_str).map(str::to_owned);
                text("name").zip(text("template"))
            };
            let all = list.iter().map(template).collect::<Option<Vec<_>>>();
            all.ok_or_else(|| options.refuse(KEY, "a list, but not of names and templates"))
        }
        Some(_) => Err(options.refuse(KEY, "neither a template nor a list of at most 64 named ones")),
    }
}

/// What transformers gives its templates.
fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_fuel(Some(FUEL));
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.set_formatter(|out, _state: &State, value| {
        let mut text = String::new();
        python::print(value, &mut text)?;
        Ok(out.write_str(&text)?)
    });
    environment.add_filter("tojson", |value: &Value, options: Kwargs| -> Result<String, Error> {
        let indent: Option<usize> = options.get("indent")?;
        // Templates also name what transformers' own `tojson` takes; what it defaults to is what is done here.
        let ascii: Option<bool> = options.get("ensure_ascii")?;
        options.assert_all_used()?;
        if ascii == Some(true) || indent.is_some_and(|i| i > 64) {
            return Err(Error::new(
                ErrorKind::InvalidOperation,
                "tojson knows an indent up to 64, and ensure_ascii=false",
            ));
        }
        python::dumps(value, indent)
    });
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, format!("{REFUSAL}{message}")))
    });
    environment
}

/// A template without the marks `{% generation %}` and `{% endgeneration %}`, by which transformers finds out for training which text
/// is the model's. They become blocks that are always taken, so that spaces around them are trimmed alike.
fn without_generation(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at);
        out.push_str(before);
        let Some(end) = tag[2..].find("%}") else {
            rest = tag;
            break;
        };
        let (inner, (tag, after)) = (&tag[2..2 + end], tag.split_at(end + 4));
        let name = inner.trim_start_matches(['-', '+']).trim_end_matches(['-', '+']).trim();
        match name {
            "generation" => out.push_str(&tag.replace("generation", "if true")),
            "endgeneration" => out.push_str(&tag.replace("endgeneration", "endif")),
            _ => out.push_str(tag),
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

fn failure(error: &Error) -> ChatError {
    match error.detail().and_then(|detail| detail.strip_prefix(REFUSAL)) {
        Some(reason) => ChatError::Refused { reason: reason.to_owned() },
        None => ChatError::Render { reason: reason(error) },
    }
}

/// An error and what it came from.
fn reason(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Text up to a length.
struct Bounded {
    bytes: Vec<u8>,
}

impl std::io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.bytes.len() + bytes.len() > MAX_OUTPUT_BYTES {
            return Err(std::io::Error::other(format!("the text has more than the {MAX_OUTPUT_BYTES} bytes allowed")));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
