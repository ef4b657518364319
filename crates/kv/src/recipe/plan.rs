//! From a recipe to what every lane of a model's cache does.

use super::error::Lane;
use super::{Bits, KeepSpec, Needs, Recipe, RecipeError, nearest};
use crate::LayerGeometry;
use crate::allot::Budget;
use crate::encode::codec::{Part, Shape, Side, Transform};
use crate::encode::pipeline::Pipeline;
use crate::encode::registry::{stage, stages};
use crate::encode::stage::{Args, Built, Context, StageEntry, StageError, StageSpec, Tensors};
use crate::plan::{Body, CachePlan, LanePlan};
use crate::profile::Profile;
use crate::reduce::{Keep, Passes};
use cachalot_kernels::attention::PAGE_TOKENS;
use std::collections::HashMap;
use std::sync::Arc;

impl Recipe {
    /// What this recipe does on a model with these layers.
    ///
    /// Pipelines that depend on nothing but their stages, side, width and rotary position are built once and shared.
    ///
    /// # Errors
    /// [`RecipeError::NeedsProfile`], [`RecipeError::Profile`] where it was made for another recipe, and everything that
    /// makes stages impossible on this model, with layer, side and stage.
    pub fn plan(&self, layers: &[LayerGeometry], profile: Option<&Profile>) -> Result<CachePlan, RecipeError> {
        if self.needs == Needs::Profile && profile.is_none() {
            return Err(RecipeError::NeedsProfile { recipe: self.name.clone() });
        }
        if let Some(profile) = profile {
            self.check_profile(profile)?;
        }
        let mut plan = self.plan_with(layers, profile.map(|profile| profile as &dyn Tensors))?;
        let used = [Side::Keys, Side::Values].into_iter().any(|side| self.uses_profile(side));
        plan.profile = profile.filter(|_| used).map(|profile| *blake3::hash(profile.checksum().as_bytes()).as_bytes());
        Ok(plan)
    }

    /// [`Recipe::plan`] with tensors whose origin nobody checks.
    pub(crate) fn plan_with(
        &self,
        layers: &[LayerGeometry],
        profile: Option<&dyn Tensors>,
    ) -> Result<CachePlan, RecipeError> {
        let mut builder = Builder { recipe: self, layers, profile, shared: HashMap::new() };
        let lanes = (0..layers.len()).map(|layer| {
            let window = self.window_of(layer, layers.len());
            (0..layers[layer].kv_heads).map(|head| builder.lane(layer, head, window)).collect()
        });
        let lanes = lanes.collect::<Result<_, _>>()?;
        let keep = self.keep.as_ref().map(|keep| keep.build(layers, profile)).transpose()?;
        let mut plan = CachePlan { name: self.name.clone(), lanes, keep: None, profile: None };
        if let Some(Passes::Stages(stages)) = keep.as_ref().map(|keep| keep.method.passes())
            && let Some(after) = stages.iter().filter_map(|stage| stage.after).find(|after| after + 1 >= layers.len())
        {
            let last = layers.len().saturating_sub(1);
            let what = format!("nothing lies beyond layer {after}: the model's last layer is {last}");
            return Err(RecipeError::Rule { recipe: self.name.clone(), what });
        }
        plan.keep = keep.map(|keep| self.within_bytes(keep, &plan, layers)).transpose()?;
        Ok(plan)
    }

    /// A budget of bytes as one of tokens.
    fn within_bytes(&self, keep: Keep, plan: &CachePlan, layers: &[LayerGeometry]) -> Result<Keep, RecipeError> {
        let Budget::Bytes(bytes) = keep.budget else { return Ok(keep) };
        let (tokens, least) = (plan.tokens_within(layers, bytes), keep.method.least().max(1));
        if tokens < least {
            let what = format!(
                "`budget={}` is room for {tokens} tokens of each head; the method keeps at least {least}: give it more",
                keep.budget
            );
            return Err(RecipeError::Rule { recipe: self.name.clone(), what });
        }
        Ok(Keep { budget: Budget::Tokens(tokens), ..keep })
    }

    /// The one of some profiles that it can use: one made for the same stages and heads serves, whatever the name and the
    /// window. Where none suits, the one that comes closest, which planning will say what is wrong with.
    pub fn profile_among<'a>(&self, profiles: &'a [Arc<Profile>]) -> Option<&'a Arc<Profile>> {
        let suits = |profile: &&Arc<Profile>| self.check_profile(profile).is_ok();
        let named = |profile: &&Arc<Profile>| profile.origin().recipe == self.name;
        let any = || profiles.first().filter(|_| self.needs == Needs::Profile);
        profiles.iter().find(suits).or_else(|| profiles.iter().find(named)).or_else(any)
    }

    /// A profile belongs to the stages it was made for, and to what was measured of heads.
    ///
    /// # Errors
    /// [`RecipeError::Profile`] where they are others.
    pub fn check_profile(&self, profile: &Profile) -> Result<(), RecipeError> {
        if let Some(measure) = self.keep.as_ref().and_then(KeepSpec::measures) {
            profile.check_heads(&self.name, measure)?;
        }
        for side in [Side::Keys, Side::Values] {
            if self.uses_profile(side) {
                profile.check_recipe(&self.name, side, &self.encode.digest(side))?;
            }
        }
        Ok(())
    }

    /// Whether what it writes of a side depends on what calibration learned.
    fn uses_profile(&self, side: Side) -> bool {
        let wants = |spec: &StageSpec| stage(&spec.name).is_some_and(|entry| entry.calibrate.is_some());
        self.encode.chooses_bits(side) || self.encode.all_stages(side).any(wants)
    }

    fn window_of(&self, layer: usize, layers: usize) -> usize {
        let rules = self.encode.rules.iter().rev().filter(|rule| rule.layers.contains(layer, layers));
        rules.filter_map(|rule| rule.window).next().unwrap_or(self.encode.window)
    }
}

/// Builds the pipelines of a plan.
pub(super) struct Builder<'a> {
    pub recipe: &'a Recipe,
    pub layers: &'a [LayerGeometry],
    pub profile: Option<&'a dyn Tensors>,
    /// Pipelines that any lane with this key may use.
    pub shared: HashMap<Key, Arc<Pipeline>>,
}

/// What a pipeline without calibration depends on.
#[derive(PartialEq, Eq, Hash)]
pub(super) struct Key {
    side: Side,
    stages: Vec<StageSpec>,
    channels: usize,
    /// The rotation by its address: equal addresses are equal rotations.
    rope: Option<usize>,
}

impl Builder<'_> {
    fn lane(&mut self, layer: usize, head: usize, window: usize) -> Result<LanePlan, RecipeError> {
        let encode = &self.recipe.encode;
        let (k, v) = (self.stages(Side::Keys, layer, head)?, self.stages(Side::Values, layer, head)?);
        let body = if k.is_empty() && v.is_empty() {
            None
        } else {
            let k = self.pipeline(Lane { layer, head, side: Side::Keys }, k)?;
            let v = self.pipeline(Lane { layer, head, side: Side::Values }, v)?;
            Some(Body::new(k, v))
        };
        // Whoever divides tokens into classes wants to know what they are worth.
        let classes = |side| encode.all_stages(side).any(|spec| spec.name == "classes");
        let importance = encode.importance || classes(Side::Keys) || classes(Side::Values);
        Ok(LanePlan { sinks: encode.sinks, window, exact: encode.exact, body, importance })
    }

    /// The stages of a lane, their widths filled in.
    pub fn stages(&self, side: Side, layer: usize, head: usize) -> Result<Vec<StageSpec>, RecipeError> {
        let encode = &self.recipe.encode;
        let heads = self.layers[layer].kv_heads;
        let mut stages = encode.stages_of(side, (layer, self.layers.len()), (head, heads)).to_vec();
        if encode.bits == Bits::Profile
            && let Some(profile) = self.profile
        {
            let bits = self.bits(profile, side, layer, head)?;
            for spec in &mut stages {
                if let Some(arg) = spec.args.get_mut("bits") {
                    *arg = bits.to_string();
                }
            }
        }
        Ok(stages)
    }

    /// The width that the profile gives a lane.
    fn bits(&self, profile: &dyn Tensors, side: Side, layer: usize, head: usize) -> Result<usize, RecipeError> {
        let fail = |what: String| RecipeError::Rule { recipe: self.recipe.name.clone(), what };
        let found = profile.tensor("bits");
        let (shape, data) = found.ok_or_else(|| fail("the profile has no tensor `bits`".to_owned()))?;
        let (layers, heads) = (self.layers.len(), self.layers[layer].kv_heads);
        let lane = match *shape {
            [l, 2] if l == layers => layer,
            [l, h, 2] if l == layers && h == heads => layer * heads + head,
            _ => {
                return Err(fail(format!(
                    "the profile's `bits` is {shape:?}, not [{layers}, 2] or [{layers}, {heads}, 2]"
                )));
            }
        };
        let bits = data[2 * lane + usize::from(side == Side::Values)];
        if (1.0..=8.0).contains(&bits) && bits.fract() == 0.0 {
            return Ok(bits as usize);
        }
        Err(fail(format!("the profile gives layer {layer} {bits} bits; 1 to 8 are possible")))
    }

    pub fn pipeline(&mut self, lane: Lane, mut stages: Vec<StageSpec>) -> Result<Arc<Pipeline>, RecipeError> {
        if stages.is_empty() {
            // Exact beside a side that is not: the body is written by pipelines on both sides.
            let exact = self.recipe.encode.exact;
            let element = if lane.side == Side::Keys { exact.k } else { exact.v };
            stages.push(StageSpec { name: element.to_string(), args: [].into() });
        }
        let g = &self.layers[lane.layer];
        let calibrated = |spec: &StageSpec| stage(&spec.name).is_some_and(|entry| entry.calibrate.is_some());
        if self.profile.is_some() && stages.iter().any(calibrated) {
            return Ok(Arc::new(self.build(lane, &stages)?));
        }
        let rope = g.rope.as_ref().map(|rope| Arc::as_ptr(rope) as usize);
        let key = Key { side: lane.side, stages, channels: g.head_dim, rope };
        if let Some(pipeline) = self.shared.get(&key) {
            return Ok(pipeline.clone());
        }
        let pipeline = Arc::new(self.build(lane, &key.stages)?);
        self.shared.insert(key, pipeline.clone());
        Ok(pipeline)
    }

    fn build(&self, lane: Lane, stages: &[StageSpec]) -> Result<Pipeline, RecipeError> {
        let mut assembly = Assembly::new(self, lane);
        stages.iter().try_for_each(|spec| assembly.push(spec, self.profile))?;
        assembly.finish()
    }
}

/// A pipeline being built, stage by stage.
pub(super) struct Assembly<'a> {
    builder: &'a Builder<'a>,
    lane: Lane,
    pub channels: usize,
    pub before_rope: bool,
    pub transforms: Vec<Arc<dyn Transform>>,
    pub parts: Vec<Arc<dyn Part>>,
    wraps: Vec<(StageSpec, Wrap)>,
    /// Stages so far.
    count: usize,
    last_part: Option<StageSpec>,
}

type Wrap = Box<dyn FnOnce(Arc<dyn Part>) -> Result<Arc<dyn Part>, StageError>>;

impl<'a> Assembly<'a> {
    pub fn new(builder: &'a Builder<'a>, lane: Lane) -> Assembly<'a> {
        Assembly {
            builder,
            lane,
            channels: builder.layers[lane.layer].head_dim,
            before_rope: false,
            transforms: Vec::new(),
            parts: Vec::new(),
            wraps: Vec::new(),
            count: 0,
            last_part: None,
        }
    }

    /// Where the next stage stands.
    pub fn context<'b>(&'b self, profile: Option<&'b dyn Tensors>) -> Context<'b> {
        let g = &self.builder.layers[self.lane.layer];
        Context {
            side: self.lane.side,
            tokens: PAGE_TOKENS,
            channels: self.channels,
            layer: self.lane.layer,
            layers: self.builder.layers.len(),
            head: self.lane.head,
            heads: g.kv_heads,
            rope: g.rope.as_deref(),
            profile,
            stage: self.count,
        }
    }

    pub fn entry(&self, spec: &StageSpec) -> Result<&'static StageEntry, RecipeError> {
        stage(&spec.name).ok_or_else(|| {
            let nearest = nearest(&spec.name, stages().map(|entry| entry.name)).map(str::to_owned);
            RecipeError::Unknown { what: "stage", name: spec.name.clone(), nearest }
        })
    }

    pub fn push(&mut self, spec: &StageSpec, profile: Option<&dyn Tensors>) -> Result<(), RecipeError> {
        let entry = self.entry(spec)?;
        let args = Args::new(spec.clone());
        let built = (entry.build)(&args, &self.context(profile));
        let built = built.and_then(|built| args.done().map(|()| built)).map_err(|error| self.stage_error(error))?;
        self.count += 1;
        match built {
            Built::BeforeRope => {
                // A layer without rotary position has nothing to come before.
                self.before_rope = self.builder.layers[self.lane.layer].rope.is_some();
            }
            Built::Transform(transform) => {
                if let Some(part) = &self.last_part {
                    return Err(self.fail(spec, format!(
                        "`{part}` and `{spec}` clash: a change of basis must come before the first stage that writes"
                    )));
                }
                if let Some((wrap, _)) = self.wraps.first() {
                    return Err(self.fail(spec, format!(
                        "`{wrap}` and `{spec}` clash: `{wrap}` wraps the stage after it, which must be one that writes"
                    )));
                }
                if transform.inputs() != self.channels {
                    let (takes, channels) = (transform.inputs(), self.channels);
                    return Err(self.fail(spec, format!("`{spec}` takes {takes} channels; here are {channels}")));
                }
                self.channels = transform.outputs();
                self.transforms.push(transform);
            }
            Built::Part(mut part) => {
                for (_, wrap) in std::mem::take(&mut self.wraps).into_iter().rev() {
                    part = wrap(part).map_err(|error| self.stage_error(error))?;
                }
                let shape = self.context(None).shape();
                if part.shape() != shape {
                    return Err(self.fail(spec, format!("`{spec}` writes {:?}; here are {shape:?}", part.shape())));
                }
                self.parts.push(part);
                self.last_part = Some(spec.clone());
            }
            Built::Wrap(wrap) => self.wraps.push((spec.clone(), wrap)),
        }
        Ok(())
    }

    pub fn finish(self) -> Result<Pipeline, RecipeError> {
        if let Some((wrap, _)) = self.wraps.first() {
            return Err(self.fail(wrap, format!("nothing comes after `{wrap}`, which wraps the stage after it")));
        }
        if self.parts.is_empty() {
            let what = "no stage writes anything; end with one that does, such as `uniform(bits=4)` or `f16`";
            return Err(self.error(None, what.to_owned()));
        }
        let g = &self.builder.layers[self.lane.layer];
        let shape = Shape { side: self.lane.side, tokens: PAGE_TOKENS, channels: g.head_dim };
        Ok(Pipeline::new(shape, self.before_rope, self.transforms, self.parts))
    }

    pub fn stage_error(&self, error: StageError) -> RecipeError {
        let Recipe { name, places, .. } = self.builder.recipe;
        RecipeError::Stage { recipe: name.clone(), place: places.of(&error.stage), lane: self.lane, error }
    }

    fn fail(&self, spec: &StageSpec, what: String) -> RecipeError {
        self.error(self.builder.recipe.places.of(&spec.to_string()), what)
    }

    fn error(&self, place: Option<String>, what: String) -> RecipeError {
        RecipeError::Pipeline { recipe: self.builder.recipe.name.clone(), place, lane: self.lane, what }
    }
}
