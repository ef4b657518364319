//! Rows in tiles whose accumulators fit the registers.

/// Query rows whose accumulators are held in registers together.
pub(super) const ROW_TILE: usize = 6;

/// Calls a tile function with the largest tile that fits, until all rows are done.
macro_rules! in_tiles {
    ($rows:expr, $at:ident, $f:ident, $load:ident, ($($arg:expr),*)) => {{
        let (mut $at, rows) = (0, $rows);
        while $at < rows {
            // SAFETY: every tile lies within the rows.
            unsafe {
                match rows - $at {
                    1 => { $f::<S, $load, 1>($($arg),*); $at += 1 }
                    2 => { $f::<S, $load, 2>($($arg),*); $at += 2 }
                    3 => { $f::<S, $load, 3>($($arg),*); $at += 3 }
                    4 | 5 => { $f::<S, $load, 4>($($arg),*); $at += 4 }
                    _ => { $f::<S, $load, { $crate::attention::tiles::ROW_TILE }>($($arg),*); $at += $crate::attention::tiles::ROW_TILE }
                }
            }
        }
    }};
}

pub(super) use in_tiles;
