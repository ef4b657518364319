//! Words to make things up from.

/// No word ends with another, so that no pair is part of another pair.
pub(super) const ADJECTIVES: [&str; 96] = [
    "amber", "ancient", "autumn", "bitter", "blank", "blue", "bold", "brave", "brief", "bright", "broken", "calm",
    "central", "cheap", "clever", "cold", "common", "copper", "crimson", "curious", "daily", "damp", "dark", "deep",
    "distant", "dry", "dusty", "eager", "early", "eastern", "elegant", "empty", "faint", "famous", "fancy", "fierce",
    "final", "firm", "flat", "foreign", "fragile", "fresh", "frozen", "gentle", "giant", "golden", "grand", "green",
    "grey", "happy", "heavy", "hidden", "hollow", "honest", "humble", "icy", "jolly", "keen", "kind", "lazy", "local",
    "lonely", "loud", "lucky", "marble", "modern", "narrow", "noble", "noisy", "northern", "olive", "pale", "plain",
    "polite", "proud", "purple", "quick", "quiet", "rapid", "rough", "royal", "rusty", "scarlet", "sharp", "silent",
    "silver", "simple", "sleepy", "smooth", "solid", "steep", "stormy", "sunny", "tender", "velvet", "wooden",
];

/// No word begins with another.
pub(super) const NOUNS: [&str; 144] = [
    "acorn", "anchor", "apple", "arrow", "badger", "bakery", "barrel", "basket", "beacon", "beetle", "bench", "bottle",
    "bridge", "bucket", "button", "cabin", "camel", "candle", "canyon", "carpet", "castle", "cellar", "chapel",
    "cherry", "chimney", "circus", "clock", "cobbler", "comet", "copse", "cottage", "cradle", "crater", "cricket",
    "crystal", "curtain", "dagger", "desert", "diamond", "dolphin", "donkey", "dragon", "eagle", "engine", "falcon",
    "farmer", "feather", "ferry", "fiddle", "flame", "forest", "fountain", "garden", "glacier", "goblet", "guitar",
    "hammer", "harbour", "harvest", "helmet", "heron", "hunter", "island", "ivory", "jacket", "jasmine", "jungle",
    "kettle", "kitchen", "ladder", "lagoon", "lantern", "lemon", "lizard", "locket", "magnet", "market", "meadow",
    "mirror", "monkey", "mountain", "museum", "needle", "nettle", "oasis", "orchard", "otter", "oyster", "paddle",
    "palace", "parrot", "pebble", "pencil", "pepper", "piano", "pigeon", "pillow", "planet", "potter", "prairie",
    "pumpkin", "quarry", "quilt", "rabbit", "raven", "ribbon", "river", "rocket", "saddle", "sailor", "salmon",
    "shadow", "shepherd", "signal", "spider", "spruce", "statue", "summit", "tailor", "teapot", "temple", "thistle",
    "thunder", "ticket", "tiger", "timber", "tower", "trumpet", "tunnel", "turtle", "umbrella", "valley", "vessel",
    "village", "violin", "volcano", "wagon", "walnut", "whistle", "willow", "window", "winter", "wizard", "zebra",
];

/// All pairs of an adjective and a noun.
pub(super) const PAIRS: usize = ADJECTIVES.len() * NOUNS.len();

/// A pair, `at` below [`PAIRS`], as in `amber-acorn`.
pub(super) fn pair(at: usize) -> String {
    format!("{}-{}", ADJECTIVES[at / NOUNS.len() % ADJECTIVES.len()], NOUNS[at % NOUNS.len()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_pair_is_part_of_another() {
        for one in ADJECTIVES {
            assert_eq!(ADJECTIVES.iter().filter(|other| other.ends_with(one)).count(), 1, "{one}");
        }
        for one in NOUNS {
            assert_eq!(NOUNS.iter().filter(|other| other.starts_with(one)).count(), 1, "{one}");
        }
        assert_eq!((pair(0), pair(PAIRS - 1)), ("amber-acorn".into(), "wooden-zebra".into()));
    }
}
