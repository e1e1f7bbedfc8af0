//! The load: questions whose right answers are known, asked steadily, and what became of them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tabpool_pool::{Answer, ModelHandle, ModelRequest, PoolError, ResourcePool, WorkerSpec, WorkerView};
use tabpool_protocol::ApiKind;
use tabpool_tensor::Tensor;
use tabpool_tests::chance::Chance;
use tabpool_tests::golden::{Golden, Named, error};
use tabpool_tests::places::fixture_name;
use tabpool_tests::{Fault, Outcome, require, scene};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// One model of each kind: text, pictures, sound.
const MODELS: [&str; 3] = ["bert", "vit", "wav2vec2"];
/// Different questions to each.
const QUESTIONS: usize = 8;
/// Tokens of the texts, so that they are of several buckets.
const LENGTHS: [usize; 4] = [7, 20, 33, 60];
const SAMPLES: usize = 1600;
/// Asked at a time, so that there are more than one worker takes.
const BURST: u64 = 6;
/// Unanswered at a time of one place; beyond it nothing is asked there, as a caller with bounds would do: a browser that is struck
/// again and again must not be owed more than it answers in its good moments.
const MOST_OPEN: u64 = 150;
/// Things that went wrong are told up to this many.
const MOST_TOLD: usize = 20;
/// So much of a reason is told.
const LONGEST_REASON: usize = 200;

/// A question and its answer.
struct Question {
    model: usize,
    inputs: Named,
    wanted: Vec<Vec<f32>>,
}

/// All there are.
pub(crate) struct Book {
    questions: Vec<Question>,
}

impl Book {
    /// Has a native worker of a pool of its own give the right answers.
    pub(crate) async fn write() -> Result<Self, Fault> {
        let spec = WorkerSpec::native().apis(&[ApiKind::Cpu]);
        let pool = scene::ready(ResourcePool::builder().metrics_in_memory().worker(spec)).await?;
        let models = open(&pool).await?;
        let mut questions = Vec::new();
        for (model, handle) in models.iter().enumerate() {
            for number in 0..QUESTIONS {
                let inputs = inputs(MODELS[model], number)?;
                let answer = handle.run(inputs.clone()).await?;
                let wanted = answer.outputs.iter().map(|(_, output)| Ok(output.to_f32()?.into_owned()));
                questions.push(Question { model, inputs, wanted: wanted.collect::<Result<_, Fault>>()? });
            }
        }
        pool.close().await?;
        Ok(Self { questions })
    }

    /// Asks a worker one question of each kind.
    pub(crate) async fn examine(&self, pool: &ResourcePool, worker: &WorkerView) -> Outcome {
        let id = worker.id.ok_or("there is no worker")?;
        for (model, handle) in open(pool).await?.iter().enumerate() {
            let question = self.questions.iter().find(|question| question.model == model).ok_or("no question")?;
            let answer = handle.pinned(id).run(question.inputs.clone()).await;
            question.check(&answer.map_err(|e| format!("{} after the storm: {e}", worker.kind))?)?;
        }
        Ok(())
    }
}

impl Question {
    fn check(&self, answer: &Answer) -> Outcome {
        require(answer.outputs.len() == self.wanted.len(), || format!("{} outputs came", answer.outputs.len()))?;
        for ((name, got), want) in answer.outputs.iter().zip(&self.wanted) {
            let worst = error(&got.to_f32()?, want, |_| true);
            let of = || format!("{} {name} by {} with {}", MODELS[self.model], answer.worker, answer.api);
            require(worst <= 1.0, || format!("{}: off by {worst} times the tolerance", of()))?;
        }
        Ok(())
    }
}

/// The models in a pool.
pub(crate) async fn open(pool: &ResourcePool) -> Result<Vec<ModelHandle>, Fault> {
    let mut models = Vec::new();
    for name in MODELS {
        models.push(pool.model(ModelRequest::new(fixture_name(name))).await?);
    }
    Ok(models)
}

fn inputs(model: &str, number: usize) -> Result<Named, Fault> {
    let mut chance = Chance::new(number as u64);
    let one = |name: &str, tensor| Ok(vec![(name.to_owned(), tensor)]);
    match model {
        "bert" => {
            let length = LENGTHS[number % LENGTHS.len()];
            let ids = (0..length).map(|_| 1 + chance.below(500) as i64).collect::<Vec<_>>();
            one("input_ids", Tensor::from_i64([1, length], ids)?)
        }
        "vit" => {
            let (_, golden) = Golden::cases(model)?.swap_remove(0);
            let (name, pictures) = golden.inputs.first().ok_or("the golden has no picture")?;
            let darker = 1.0 - number as f32 / 16.0;
            let values = pictures.to_f32()?.iter().map(|value| value * darker).collect::<Vec<_>>();
            one(name, Tensor::from_f32(pictures.shape().dims().to_vec(), values)?)
        }
        _ => {
            let values = (0..SAMPLES).map(|_| chance.below(2001) as f32 / 1000.0 - 1.0).collect::<Vec<_>>();
            one("input_values", Tensor::from_f32([1, SAMPLES], values)?)
        }
    }
}

/// Where a question may be answered.
#[derive(Clone, Copy, Debug)]
enum Where {
    Anywhere,
    /// Any worker of this kind.
    Chromium,
    /// The same.
    Firefox,
    /// The tab behind the relay alone, which nobody takes the place of: it may be refused with a reason.
    Guest,
}

const PLACES: [Where; 8] = [
    Where::Anywhere,
    Where::Anywhere,
    Where::Anywhere,
    Where::Chromium,
    Where::Chromium,
    Where::Firefox,
    Where::Firefox,
    Where::Guest,
];

/// What became of the questions.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) asked: AtomicU64,
    pub(crate) right: AtomicU64,
    /// Questions to the guest alone that were refused.
    pub(crate) refused: AtomicU64,
    /// Answers that took several attempts.
    pub(crate) again: AtomicU64,
    /// Questions that were not asked because too many were open.
    pub(crate) held_back: AtomicU64,
    attempts: AtomicU64,
    /// Open ones, by place.
    waiting: [AtomicU64; 4],
    /// In microseconds, by place.
    times: [Mutex<Vec<u32>>; 4],
    wrong: Mutex<Vec<String>>,
    reasons: Mutex<BTreeMap<String, u64>>,
}

impl Tally {
    /// Questions that have no answer yet.
    pub(crate) fn open(&self) -> u64 {
        self.waiting.iter().map(|waiting| waiting.load(Ordering::Relaxed)).sum()
    }

    /// What went wrong, as far as it is kept.
    pub(crate) fn wrong(&self) -> Vec<String> {
        locked(&self.wrong).clone()
    }

    /// Most attempts of any answer.
    pub(crate) fn most_attempts(&self) -> u64 {
        self.attempts.load(Ordering::Relaxed)
    }

    /// For people: of each place, the times below which half, 99 per cent and all of the answers came.
    pub(crate) fn times(&self) -> String {
        let of = |place: Where| {
            let mut times = locked(&self.times[place as usize]).clone();
            times.sort_unstable();
            let below = |percent: usize| {
                let at = times.len().saturating_sub(1) * percent / 100;
                Duration::from_micros(u64::from(times.get(at).copied().unwrap_or_default()))
            };
            format!("{place:?} {:.1?}, {:.1?}, {:.1?}", below(50), below(99), below(100))
        };
        [Where::Anywhere, Where::Chromium, Where::Firefox, Where::Guest].map(of).join("; ")
    }

    /// Why questions were refused, without the numbers in it, and how often.
    pub(crate) fn reasons(&self) -> BTreeMap<String, u64> {
        locked(&self.reasons).clone()
    }

    fn because(&self, reason: &str) {
        let plain: String = reason.chars().filter(|one| !one.is_ascii_digit()).take(LONGEST_REASON).collect();
        let mut reasons = locked(&self.reasons);
        if reasons.len() < MOST_TOLD || reasons.contains_key(&plain) {
            *reasons.entry(plain).or_default() += 1;
        }
    }

    fn put(&self, place: Where, question: &Question, answer: Result<Answer, PoolError>, took: Duration) {
        let count = |counter: &AtomicU64| counter.fetch_add(1, Ordering::Relaxed);
        let told = match (answer, place) {
            (Ok(answer), _) => {
                count(&self.right);
                if answer.attempts > 1 {
                    count(&self.again);
                }
                self.attempts.fetch_max(u64::from(answer.attempts), Ordering::Relaxed);
                question.check(&answer).err().map(|e| e.to_string())
            }
            (Err(PoolError::NoWorker(reason) | PoolError::Failed { reason, .. }), Where::Guest) => {
                count(&self.refused);
                self.because(&reason);
                None
            }
            (Err(e), place) => Some(format!("{} {place:?} after {took:?}: {e}", MODELS[question.model])),
        };
        self.waiting[place as usize].fetch_sub(1, Ordering::Relaxed);
        locked(&self.times[place as usize]).push(u32::try_from(took.as_micros()).unwrap_or(u32::MAX));
        if let Some(told) = told {
            let mut wrong = locked(&self.wrong);
            if wrong.len() < MOST_TOLD {
                wrong.push(told);
            }
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Asks until told to stop, and then waits for every answer.
pub(crate) async fn ask(
    pool: Arc<ResourcePool>,
    book: Arc<Book>,
    tally: Arc<Tally>,
    (rate, seed): (u64, u64),
    stop: watch::Receiver<bool>,
) -> Outcome {
    let models = open(&pool).await?;
    let mut chance = Chance::new(seed);
    let mut open = JoinSet::new();
    let mut ticks = tokio::time::interval(Duration::from_micros(1_000_000 * BURST / rate));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !*stop.borrow() {
        ticks.tick().await;
        while let Some(ended) = open.try_join_next() {
            ended?;
        }
        for _ in 0..BURST {
            let at = chance.below(book.questions.len());
            let place = *chance.pick(&PLACES).unwrap_or(&Where::Anywhere);
            if tally.waiting[place as usize].load(Ordering::Relaxed) >= MOST_OPEN {
                tally.held_back.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            let model = &models[book.questions[at].model];
            let model = match place {
                Where::Anywhere => model.clone(),
                Where::Chromium => model.on("chromium".parse()?),
                Where::Firefox => model.on("firefox".parse()?),
                Where::Guest => match guest(&pool).and_then(|guest| guest.id) {
                    Some(id) => model.pinned(id),
                    None => continue,
                },
            };
            let (book, tally) = (Arc::clone(&book), Arc::clone(&tally));
            tally.asked.fetch_add(1, Ordering::Relaxed);
            tally.waiting[place as usize].fetch_add(1, Ordering::Relaxed);
            open.spawn(async move {
                let begun = Instant::now();
                let answer = model.run(book.questions[at].inputs.clone()).await;
                tally.put(place, &book.questions[at], answer, begun.elapsed());
            });
        }
    }
    while let Some(ended) = open.join_next().await {
        ended?;
    }
    Ok(())
}

/// The tab that joined by itself; those of intruders call themselves otherwise.
pub(crate) fn guest(pool: &ResourcePool) -> Option<WorkerView> {
    pool.workers().into_iter().find(|view| view.slot.is_none() && view.kind.to_string() == "firefox")
}
