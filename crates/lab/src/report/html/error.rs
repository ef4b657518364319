//! Why there is no page.

use plotters::drawing::DrawingAreaErrorKind;
use std::error::Error;

/// A page could not be made. Both would be mistakes of ours: no sheet is to blame.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// A plot.
    #[error("draw a plot of the report: {0}")]
    Plot(String),
    /// The page around them.
    #[error("write the report: {0}")]
    Page(#[from] minijinja::Error),
}

impl<E: Error + Send + Sync> From<DrawingAreaErrorKind<E>> for ReportError {
    fn from(error: DrawingAreaErrorKind<E>) -> ReportError {
        ReportError::Plot(error.to_string())
    }
}
