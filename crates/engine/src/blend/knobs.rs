//! What methods want to know beyond the share of rows that are computed again.

use super::Method;
use crate::EngineError;

/// Each field is of one method only; the others pay no heed to it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Knobs {
    /// Of `ape`: what scores over contexts are divided by; above 0.
    pub temperature: f64,
    /// Of `ape`: how much the contexts weigh beside the rest; 1 is what their scores say.
    pub scale: f64,
    /// Of `kvcomm`: entropy, as a share of the largest, above which a message is not foreseeable; from 0 to 1.
    pub gamma: f64,
    /// Of `kvcomm`: anchors of one placeholder, at most.
    pub anchors: usize,
}

impl Default for Knobs {
    /// What the papers' code has.
    fn default() -> Knobs {
        Knobs { temperature: 0.9, scale: 0.9, gamma: 0.3, anchors: 20 }
    }
}

impl Knobs {
    /// Sets one by its name.
    ///
    /// # Errors
    /// [`EngineError::InvalidParameter`] where the method has none of that name, or not with that value.
    pub fn set(&mut self, method: Method, name: &str, value: f64) -> Result<(), EngineError> {
        let within = |least: f64, most: f64| {
            let wrong =
                || EngineError::invalid("kv.reuse", format!("{name}={value}"), format!("from {least} to {most}"));
            if (least..=most).contains(&value) { Ok(value) } else { Err(wrong()) }
        };
        match (method, name) {
            (Method::Ape, "temperature") => self.temperature = within(0.01, 10.0)?,
            (Method::Ape, "scale") => self.scale = within(0.0, 10.0)?,
            (Method::KvComm, "gamma") => self.gamma = within(0.0, 1.0)?,
            (Method::KvComm, "anchors") => self.anchors = within(2.0, 1000.0)? as usize,
            _ => return Err(EngineError::invalid("kv.reuse", name, "something that this method has")),
        }
        Ok(())
    }

    /// As [`super::Blend`] writes those of a method.
    pub(super) fn list(&self, method: Method) -> Option<String> {
        let Knobs { temperature, scale, gamma, anchors } = self;
        match method {
            Method::Ape => Some(format!("temperature={temperature}, scale={scale}")),
            Method::KvComm => Some(format!("gamma={gamma}, anchors={anchors}")),
            _ => None,
        }
    }
}
