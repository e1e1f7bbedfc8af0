//! Chooses among the variants of a kernel by timing them on the device.
//!
//! Before a load compiles its kernels, the classes of work with variants that were not tried are tried, those with the most
//! arithmetic first, for as long as the budget lasts; compiling counts. A variant has to give right numbers here before its
//! time counts, variants take turns so that a busy moment meets all of them, and the shortest time of each is what is
//! compared. Where the budget ends before all were tried, the best so far is chosen, and the next load goes on: what is
//! left then competes with that one. At least two variants are tried whatever the budget, so that every load comes further
//! on a device however slow; what is new compiles first, and stays compiled where somebody comes before it was measured.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use tabpool_engine::EngineError;
use tabpool_engine::tuning::{Timing, Tuning, Winner};
use tabpool_tensor::Precision;
use web_time::Instant;

use crate::device::Gpu;
use crate::kernels::gemm::GemmVariant;
use crate::lower::{Capabilities, Product};
use crate::trial::{Bench, Candidate, Contender, Trial};

/// How long the launches of one measurement should take together: long beside a clock of a millisecond and beside
/// submitting, short beside the budget.
const MEASURE: Duration = Duration::from_millis(12);
/// The most launches of one measurement.
const MOST_LAUNCHES: u32 = 64;
/// How often each variant is measured, in turns.
const ROUNDS: usize = 4;
/// A variant this many times slower than the best at its first launch is not measured further.
const HOPELESS: u32 = 4;
/// The most classes that are remembered; a device that serves many models keeps the first ones.
const MOST_CLASSES: usize = 512;
/// Operations in a run below which a class is left to the prior, unless there is plenty of time: trying variants costs a
/// compilation each, and what is won is some microseconds.
const LEAST_OPERATIONS: u64 = 2_000_000;
const PLENTY: Duration = Duration::from_secs(5);

/// What is known of a device, and how to learn more.
#[derive(Default)]
pub(crate) struct Tuner {
    budget: Cell<Duration>,
    /// The winning variant of each class, and what was tried.
    known: RefCell<HashMap<String, Known>>,
    /// In what numbers weights of a size lie where less exact ones are permitted; see [`format`](Self::format).
    formats: RefCell<HashMap<Sized, Precision>>,
    fresh: RefCell<Vec<Winner>>,
    /// One load tunes at a time: two would measure each other.
    /// Somebody waits for what the device does besides.
    hurry: Cell<bool>,
    busy: Cell<bool>,
}

impl Tuner {
    /// Takes over how to tune and what is known.
    pub(crate) fn set(&self, tuning: Tuning) {
        self.budget.set(tuning.budget);
        for Winner { class, variant, timings } in tuning.known {
            self.remember(class, Known { variant, timings });
        }
    }

    fn remember(&self, class: String, known: Known) {
        let mut all = self.known.borrow_mut();
        if all.len() < MOST_CLASSES || all.contains_key(&class) {
            all.insert(class, known);
        }
    }

    /// In what numbers weights of this product's size lie on the device, once a program with the same permission was
    /// loaded: programs for other numbers of rows take the same, so that they share the weights.
    pub(crate) fn format(&self, of: Product) -> Option<Precision> {
        self.formats.borrow().get(&sized(of)).copied()
    }

    /// Remembers in what numbers the weights of a program lie.
    pub(crate) fn settle(&self, products: &BTreeMap<Product, (u64, GemmVariant)>) {
        let mut formats = self.formats.borrow_mut();
        for (&of, (_, variant)) in products.iter().filter(|(of, _)| of.permitted != Precision::F32) {
            if formats.len() < MOST_CLASSES {
                formats.entry(sized(of)).or_insert(variant.stored());
            }
        }
    }

    /// The variants worth timing for a product, likely best first.
    pub(crate) fn candidates(&self, of: Product, device: &Capabilities) -> Vec<GemmVariant> {
        let mut candidates = GemmVariant::candidates(of.m, device.kind, of.permitted, device.has);
        if let Some(format) = self.format(of) {
            candidates.retain(|c| c.stored() == format);
        }
        candidates
    }

    /// The winners found since this was last asked.
    pub(crate) fn take(&self) -> Vec<Winner> {
        self.fresh.take()
    }

    /// The variant that won a class.
    pub(crate) fn choice(&self, class: &str) -> Option<String> {
        self.known.borrow().get(class).map(|known| known.variant.clone())
    }

    /// Tries what was not tried yet, within the budget.
    ///
    /// # Errors
    /// Where the device is lost. A variant that fails is passed over.
    pub(crate) async fn learn(&self, gpu: &Gpu, mut trials: Vec<Trial>) -> Result<(), EngineError> {
        let work = |trial: &Trial| trial.operations.saturating_mul(trial.nodes);
        let all = self.budget.get() >= PLENTY;
        trials.retain(|trial| trial.candidates.len() > 1 && (all || work(trial) >= LEAST_OPERATIONS));
        if self.budget.get().is_zero() || self.busy.get() {
            return Ok(());
        }
        self.busy.set(true);
        let _free = Free(&self.busy);
        self.hurry.set(false);
        trials.sort_by_key(|trial| std::cmp::Reverse(work(trial)));
        let limit = Limit { deadline: Instant::now() + self.budget.get(), hurry: Some(&self.hurry) };
        let mut contested = false;
        for mut trial in trials {
            let over = limit.hurried() || contested && limit.is_over();
            if over || self.known.borrow().len() >= MOST_CLASSES {
                break;
            }
            // Sizes that differ may be of one class.
            let mut tried = self.tried(&trial);
            if trial.candidates.iter().all(|c| tried.iter().any(|t| t.variant == c.name)) {
                continue;
            }
            let champion = tried.iter().find(|t| t.time.is_some()).map(|t| t.variant.clone());
            let is_champion = |name: &str| champion.as_deref() == Some(name);
            trial.candidates.retain(|c| is_champion(c.name) || tried.iter().all(|t| t.variant != c.name));
            // The challenger compiles first: where that is all there is time for, it is compiled the next time.
            let challenger = trial.candidates.iter().position(|c| !is_champion(c.name));
            trial.candidates.swap(0, challenger.unwrap_or_default());
            trial.candidates[1..].sort_by_key(|c| !is_champion(c.name));
            contested = true;
            let mut timings = contest(gpu, &trial, &limit).await?;
            let unchallenged = champion.is_some() && timings.iter().all(|new| !is_champion(&new.variant));
            if unchallenged || timings.iter().all(|new| tried.iter().any(|old| old.variant == new.variant)) {
                continue;
            }
            let Some(best) = timings.first().filter(|t| t.time.is_some()).map(|t| t.variant.clone()) else { continue };
            // Times of another moment are not compared with these: their variants lost to the champion then.
            tried.retain(|old| timings.iter().all(|new| new.variant != old.variant));
            timings.extend(tried);
            timings.sort_by_key(|t| (t.variant != best, t.time.is_none(), t.time));
            self.remember(trial.class.clone(), Known { variant: best.clone(), timings: timings.clone() });
            self.fresh.borrow_mut().push(Winner { class: trial.class, variant: best, timings });
        }
        Ok(())
    }

    /// Ends what is being tried as soon as that can be.
    pub(crate) fn hurry(&self) {
        self.hurry.set(true);
    }

    /// What was tried of a trial's candidates, the winner first.
    fn tried(&self, trial: &Trial) -> Vec<Timing> {
        let known = self.known.borrow();
        let Some(Known { variant, timings }) = known.get(&trial.class) else { return Vec::new() };
        let candidate = |t: &&Timing| trial.candidates.iter().any(|c| c.name == t.variant);
        let mut tried: Vec<Timing> = timings.iter().filter(candidate).cloned().collect();
        tried.sort_by_key(|t| t.variant != *variant);
        tried
    }
}

/// What is known of a class.
struct Known {
    variant: String,
    timings: Vec<Timing>,
}

/// The permission, the columns and the length of a product: what its weight has to do with it.
type Sized = (Precision, usize, usize);

fn sized(of: Product) -> Sized {
    (of.permitted, of.n, of.k)
}

/// Clears the mark of a load that tunes, however that ends.
struct Free<'a>(&'a Cell<bool>);

impl Drop for Free<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

/// A variant in a contest.
struct Entry {
    name: &'static str,
    contender: Contender,
    best: Duration,
}

/// For how long variants are tried.
#[derive(Clone, Copy)]
pub(crate) struct Limit<'a> {
    deadline: Instant,
    hurry: Option<&'a Cell<bool>>,
}

impl Limit<'_> {
    pub(crate) fn until(deadline: Instant) -> Self {
        Self { deadline, hurry: None }
    }

    fn hurried(&self) -> bool {
        self.hurry.is_some_and(Cell::get)
    }

    fn is_over(&self) -> bool {
        self.hurried() || Instant::now() >= self.deadline
    }
}

/// Times a trial's candidates within a limit, two of them whatever the time is; fastest first, those that failed last.
///
/// # Errors
/// Where the device is lost or does not hold the operands.
pub(crate) async fn contest(gpu: &Gpu, trial: &Trial, limit: &Limit<'_>) -> Result<Vec<Timing>, EngineError> {
    let bench = Bench::new(gpu, trial.work.clone()).await?;
    let (mut entries, mut failed) = (Vec::<Entry>::new(), Vec::new());
    for candidate in &trial.candidates {
        // What compiled in time is still measured; what did not is not waited for.
        if limit.hurried() || limit.is_over() && entries.len() + failed.len() >= 2 {
            break;
        }
        match enter(&bench, candidate).await {
            Ok(Some(entry)) => entries.push(entry),
            Ok(None) => failed.push(Timing { variant: candidate.name.to_owned(), time: None }),
            Err(lost @ EngineError::DeviceLost { .. }) => return Err(lost),
            Err(_) => failed.push(Timing { variant: candidate.name.to_owned(), time: None }),
        }
    }
    let first = entries.iter().map(|e| e.best).min().unwrap_or_default();
    for round in 0..ROUNDS {
        for entry in entries.iter_mut().filter(|e| e.best <= first * HOPELESS) {
            // Everybody gets one proper measurement, so that what is compared was measured alike.
            if round > 0 && limit.is_over() {
                break;
            }
            // The first launch counts the submit as well; the better it is known, the more launches fill a measurement.
            let launches = launches_in(entry.best);
            entry.best = entry.best.min(bench.time(&entry.contender, launches).await? / launches);
        }
    }
    entries.sort_by_key(|e| e.best);
    let timed = entries.into_iter().map(|e| Timing { variant: e.name.to_owned(), time: Some(e.best) });
    Ok(timed.chain(failed).collect())
}

/// Compiles a candidate, looks at its numbers and launches it once for a first idea of its time; `None` where the
/// numbers are wrong.
async fn enter(bench: &Bench<'_>, candidate: &Candidate) -> Result<Option<Entry>, EngineError> {
    let contender = bench.contender(candidate).await?;
    if bench.wrong(&contender).await?.is_some() {
        return Ok(None);
    }
    let best = bench.time(&contender, 1).await?;
    Ok(Some(Entry { name: candidate.name, contender, best }))
}

/// How many launches of this length make a measurement.
fn launches_in(each: Duration) -> u32 {
    let launches = MEASURE.as_micros().checked_div(each.as_micros()).unwrap_or(u128::from(MOST_LAUNCHES));
    u32::try_from(launches).unwrap_or(MOST_LAUNCHES).clamp(1, MOST_LAUNCHES)
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::{Duration, Instant, Limit, Precision, Product, Timing, Trial, Tuner, Tuning, Winner, contest};
    use crate::Options;
    use crate::device::Gpu;
    use crate::kernels::gemm::{GemmVariant, trial::trial};
    use crate::trial::Work;

    /// Runs a test on the machine's adapter, if it has one; required where `TABPOOL_REQUIRE_GPU=1`.
    fn with_gpu(name: &str, test: impl AsyncFnOnce(&Gpu)) {
        pollster::block_on(async {
            match Gpu::open(&Options::default()).await {
                Ok(gpu) => test(&gpu).await,
                Err(e) if std::env::var("TABPOOL_REQUIRE_GPU").is_ok_and(|v| v == "1") => panic!("{name}: {e}"),
                Err(e) => eprintln!("left out: {name}: {e}"),
            }
        });
    }

    fn product(m: usize, n: usize, k: usize) -> Product {
        Product { permitted: Precision::F32, m, n, k }
    }

    fn variants(names: &[&str]) -> Vec<GemmVariant> {
        names.iter().map(|n| GemmVariant::named(n).expect("a variant")).collect()
    }

    #[test]
    fn what_gives_wrong_numbers_is_not_timed() {
        with_gpu("wrong numbers", async |gpu| {
            let mut trial = trial(product(20, 30, 50), &variants(&["register_4x8", "register_8x8"]));
            // A kernel that takes the product to be shorter than it is leaves the last elements out.
            trial.candidates[0].launches[0].launch.params[2] -= 5;
            let timings = contest(gpu, &trial, &Limit::until(Instant::now() + Duration::from_secs(60)))
                .await
                .expect("the device lives");
            let timed: Vec<_> = timings.iter().map(|t| (&*t.variant, t.time.is_some())).collect();
            assert_eq!(timed, [("register_8x8", true), ("register_4x8", false)]);
        });
    }

    #[test]
    fn a_class_is_tried_once_and_the_fastest_is_chosen() {
        with_gpu("tried once", async |gpu| {
            let tuner = Tuner::default();
            tuner.set(Tuning { budget: Duration::from_secs(60), known: Vec::new() });
            let trials =
                || vec![trial(product(33, 48, 64), &variants(&["register_1x4", "register_4x8", "register_8x8"]))];
            tuner.learn(gpu, trials()).await.expect("the device lives");
            let winners = tuner.take();
            assert_eq!(winners.len(), 1);
            assert_eq!((&*winners[0].class, winners[0].timings.len()), ("gemm m64 n48 k64", 3));
            assert!(
                winners[0].timings.is_sorted_by_key(|t| t.time) && winners[0].timings[0].variant == winners[0].variant
            );
            assert_eq!(tuner.choice("gemm m64 n48 k64").as_ref(), Some(&winners[0].variant));
            tuner.learn(gpu, trials()).await.expect("the device lives");
            assert!(tuner.take().is_empty());
        });
    }

    /// A trial of work that there is enough of.
    fn of_worth(trial: crate::trial::Trial) -> crate::trial::Trial {
        crate::trial::Trial { nodes: super::LEAST_OPERATIONS, ..trial }
    }

    #[test]
    fn little_work_is_left_to_the_prior_and_a_hurry_ends_trying() {
        with_gpu("little work", async |gpu| {
            let tuner = Tuner::default();
            tuner.set(Tuning { budget: Duration::from_secs(1), known: Vec::new() });
            let small = || trial(product(33, 48, 64), &variants(&["register_4x8", "register_8x8"]));
            tuner.learn(gpu, vec![small()]).await.expect("the device lives");
            assert_eq!(tuner.take(), []);
            let learning = tuner.learn(gpu, vec![of_worth(small())]);
            let hurrying = async { tuner.hurry() };
            let (learnt, ()) = futures::join!(learning, hurrying);
            learnt.expect("the device lives");
            assert!(tuner.take().iter().all(|winner| winner.timings.len() < 2), "it went on in a hurry");
        });
    }

    #[test]
    fn what_a_short_budget_left_out_competes_with_the_best_so_far() {
        with_gpu("left out", async |gpu| {
            let tuner = Tuner::default();
            // What an earlier version found, of which one variant is no candidate any more.
            let timing = |variant: &str, micros| Timing {
                variant: variant.to_owned(),
                time: Some(Duration::from_micros(micros)),
            };
            let timings = vec![timing("register_8x8", 1), timing("register_4x8", 2), timing("gone", 3)];
            let known = Winner { class: "gemm m64 n48 k64".to_owned(), variant: "register_8x8".to_owned(), timings };
            tuner.set(Tuning { budget: Duration::from_nanos(1), known: vec![known] });
            let names = ["register_1x4", "register_4x8", "register_8x8", "register_16x8"];
            let mut tried = Vec::new();
            for _ in 0..3 {
                tuner
                    .learn(gpu, vec![of_worth(trial(product(33, 48, 64), &variants(&names)))])
                    .await
                    .expect("the device lives");
                let found = tuner.take();
                assert!(found.iter().all(|w| w.variant == w.timings[0].variant), "{found:?}");
                tried.extend(found.iter().map(|w| w.timings.len()));
            }
            assert_eq!(tried, [3, 4], "one more each time, until all were tried");
        });
    }

    /// Work on whose result somebody comes who has none of the time for it.
    struct Interrupted {
        work: Rc<dyn Work>,
        tuner: Rc<Tuner>,
    }

    impl Work for Interrupted {
        fn operands(&self) -> Vec<usize> {
            self.work.operands()
        }

        fn element(&self, operand: usize, i: usize) -> f32 {
            self.work.element(operand, i)
        }

        fn results(&self) -> usize {
            self.work.results()
        }

        fn expected(&self, i: usize) -> (f64, f64) {
            self.tuner.hurry();
            self.work.expected(i)
        }
    }

    #[test]
    fn what_was_compiled_in_a_hurry_competes_the_next_time() {
        with_gpu("in a hurry", async |gpu| {
            let tuner = Rc::new(Tuner::default());
            let best = Timing { variant: "register_8x8".to_owned(), time: Some(Duration::from_micros(1)) };
            let (class, variant) = ("gemm m64 n48 k64".to_owned(), best.variant.clone());
            let known = vec![Winner { class, variant, timings: vec![best] }];
            tuner.set(Tuning { budget: Duration::from_secs(60), known });
            let trial = || of_worth(trial(product(33, 48, 64), &variants(&["register_8x8", "register_4x8"])));
            let work = Rc::new(Interrupted { work: trial().work, tuner: Rc::clone(&tuner) });
            tuner.learn(gpu, vec![Trial { work, ..trial() }]).await.expect("the device lives");
            assert_eq!(tuner.take(), [], "it was compared with nothing");
            assert_eq!(tuner.choice("gemm m64 n48 k64").as_deref(), Some("register_8x8"));
            assert_eq!(gpu.pipelines.len(), 1, "what is new was compiled, and nothing else");
            tuner.learn(gpu, vec![trial()]).await.expect("the device lives");
            assert_eq!(tuner.take().iter().map(|found| found.timings.len()).collect::<Vec<_>>(), [2]);
        });
    }

    #[test]
    fn without_a_budget_nothing_is_tried() {
        with_gpu("no budget", async |gpu| {
            let tuner = Tuner::default();
            tuner.set(Tuning { budget: Duration::ZERO, known: Vec::new() });
            tuner.learn(gpu, vec![trial(product(4, 4, 4), &GemmVariant::ALL)]).await.expect("the device lives");
            assert!(tuner.take().is_empty() && tuner.choice("gemm m4 n4 k4").is_none());
        });
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let tuner = Tuner::default();
        let known = |class: String| Winner { class, variant: "register_8x8".to_owned(), timings: Vec::new() };
        let known = (0..super::MOST_CLASSES + 5).map(|i| known(i.to_string())).collect();
        tuner.set(Tuning { known, ..Tuning::default() });
        assert_eq!(tuner.known.borrow().len(), super::MOST_CLASSES);
    }
}
