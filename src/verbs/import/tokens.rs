//! The syntax of keepalived.conf: words in lines, blocks in braces, comments from `!` or `#` on, quotes, definitions.

use std::collections::HashMap;

/// A line of words, and what stands in braces behind it.
#[derive(Debug, PartialEq, Eq)]
pub struct Statement {
    /// From 1 on.
    pub line: usize,
    pub words: Vec<String>,
    pub block: Option<Vec<Statement>>,
}

impl Statement {
    pub fn word(&self, at: usize) -> &str {
        self.words.get(at).map_or("", String::as_str)
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Open,
    Close,
    End,
}

/// # Errors
/// The line, and what is wrong there: braces or quotes that have no counterpart.
pub fn parse(text: &str) -> Result<Vec<Statement>, (usize, String)> {
    let mut open: Vec<(Statement, Vec<Statement>)> = Vec::new();
    let mut statements: Vec<Statement> = Vec::new();
    let mut words: Vec<String> = Vec::new();
    let mut began = 1;
    for (line, token) in tokens(text)? {
        match token {
            Token::Word(word) => {
                if words.is_empty() {
                    began = line;
                }
                words.push(word);
            }
            Token::End if words.is_empty() => {}
            Token::End => {
                statements.push(Statement { line: began, words: std::mem::take(&mut words), block: None });
            }
            Token::Open => {
                // A brace may stand on a line of its own.
                let head = match words.is_empty() {
                    false => Statement { line: began, words: std::mem::take(&mut words), block: None },
                    true => statements
                        .pop_if(|before| before.block.is_none())
                        .ok_or((line, "nothing stands in front of this {".to_owned()))?,
                };
                open.push((head, std::mem::take(&mut statements)));
            }
            Token::Close => {
                if !words.is_empty() {
                    statements.push(Statement { line: began, words: std::mem::take(&mut words), block: None });
                }
                let (head, before) = open.pop().ok_or((line, "this } closes nothing".to_owned()))?;
                let block = std::mem::replace(&mut statements, before);
                statements.push(Statement { block: Some(block), ..head });
            }
        }
    }
    match open.pop() {
        Some((head, _)) => Err((head.line, format!("`{}` has a {{ that is not closed", head.words.join(" ")))),
        None => Ok(statements),
    }
}

fn tokens(text: &str) -> Result<Vec<(usize, Token)>, (usize, String)> {
    let mut tokens = Vec::new();
    let mut defined: HashMap<String, String> = HashMap::new();
    for (at, line) in text.lines().enumerate() {
        let at = at + 1;
        if let Some((name, value)) = definition(line) {
            if value.ends_with('\\') {
                return Err((
                    at,
                    format!("${name} is defined in several lines, which is not understood: write it in one"),
                ));
            }
            defined.insert(name.to_owned(), expanded(value, &defined));
            continue;
        }
        let line = expanded(line, &defined);
        tokens.extend(line_tokens(&line).map_err(|error| (at, error))?.into_iter().map(|token| (at, token)));
        tokens.push((at, Token::End));
    }
    Ok(tokens)
}

fn line_tokens(line: &str) -> Result<Vec<Token>, String> {
    let (mut tokens, mut word) = (Vec::new(), None::<String>);
    let mut quoted = false;
    let mut characters = line.chars();
    while let Some(c) = characters.next() {
        match c {
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            '\\' if quoted => word.get_or_insert_default().extend(characters.next()),
            c if quoted => word.get_or_insert_default().push(c),
            '!' | '#' => break,
            '{' | '}' => {
                tokens.extend(word.take().map(Token::Word));
                tokens.push(if c == '{' { Token::Open } else { Token::Close });
            }
            c if c.is_whitespace() => tokens.extend(word.take().map(Token::Word)),
            c => word.get_or_insert_default().push(c),
        }
    }
    if quoted {
        return Err("a quotation mark is not closed on its line".to_owned());
    }
    tokens.extend(word.take().map(Token::Word));
    Ok(tokens)
}

/// `$NAME=VALUE`
fn definition(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.trim().strip_prefix('$')?.split_once('=')?;
    let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    is_name.then(|| (name, value.split(['!', '#']).next().unwrap_or_default().trim()))
}

/// With the values of definitions in the place of `$NAME` and `${NAME}`.
fn expanded(line: &str, defined: &HashMap<String, String>) -> String {
    let mut text = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find('$') {
        text += &rest[..at];
        rest = &rest[at + 1..];
        let braced = rest.strip_prefix('{').and_then(|rest| rest.split_once('}'));
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        let (name, behind) = braced.unwrap_or((&rest[..end], &rest[end..]));
        match defined.get(name) {
            Some(value) => {
                text += value;
                rest = behind;
            }
            None => text.push('$'),
        }
    }
    text + rest
}
