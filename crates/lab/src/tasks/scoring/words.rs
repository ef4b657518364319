//! What counts as a word of an answer, and what is left out of one.

/// Python's `string.punctuation` is the printable ASCII that is neither letter, digit nor blank.
fn punctuation(c: char) -> bool {
    c.is_ascii_punctuation()
}

/// Full-width and typographic marks that LongBench takes from Chinese answers besides those of ASCII.
const CHINESE: &str = "！？｡。＂＃＄％＆＇（）＊＋，－／：；＜＝＞＠［＼］＾＿｀｛｜｝～｟｠｢｣､、〃》「」『』【】〔〕〖〗〘〙〚〛〜〝〞〟〰〾〿–—‘’‛“”„‟…‧﹏";

/// Words in lower case without punctuation and articles, as SQuAD normalises answers.
pub(super) fn english(text: &str) -> Vec<String> {
    let text: String = text.to_lowercase().chars().filter(|&c| !punctuation(c)).collect();
    let mut words = Vec::new();
    for word in text.split_whitespace() {
        // An article may also stand between marks that are no ASCII punctuation.
        let (mut kept, mut run) = (String::new(), String::new());
        for c in word.chars().chain(std::iter::once('\0')) {
            if c.is_alphanumeric() {
                run.push(c);
                continue;
            }
            kept.push_str(if matches!(&run[..], "a" | "an" | "the") { " " } else { &run });
            run.clear();
            if c != '\0' {
                kept.push(c);
            }
        }
        words.extend(kept.split_whitespace().map(str::to_owned));
    }
    words
}

/// Characters in lower case, without punctuation and blanks.
pub(super) fn characters(text: &str) -> Vec<String> {
    let kept = |c: &char| !punctuation(*c) && !CHINESE.contains(*c) && !c.is_whitespace();
    text.to_lowercase().chars().filter(kept).map(String::from).collect()
}

/// Chinese characters and other marks one by one, Latin letters and digits that stand together as one word.
pub(super) fn segments(text: &str) -> Vec<String> {
    let (mut words, mut run) = (Vec::new(), String::new());
    for c in text.chars().chain(std::iter::once(' ')) {
        if c.is_ascii_alphanumeric() {
            run.push(c);
            continue;
        }
        if !run.is_empty() {
            words.push(std::mem::take(&mut run));
        }
        if !c.is_whitespace() {
            words.push(c.to_string());
        }
    }
    words
}

/// [`segments`] in lower case, without punctuation.
pub(super) fn chinese(text: &str) -> Vec<String> {
    segments(text).iter().map(|word| characters(word).concat()).filter(|word| !word.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_lose_case_punctuation_and_articles() {
        assert_eq!(english("The U.S.A., an—\"ally\" of a_b  THE\tend"), ["usa", "—ally", "of", "ab", "end"]);
        assert_eq!(english("a, the. An!"), Vec::<String>::new());
        assert_eq!(characters("，Ab 龙。"), ["a", "b", "龙"]);
        assert_eq!(segments("在 GPT4中，"), ["在", "GPT4", "中", "，"]);
        assert_eq!(chinese("在 GPT4中，"), ["在", "gpt4", "中"]);
    }
}
