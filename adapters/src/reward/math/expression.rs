//! Reads an arithmetic expression, plain or in simple LaTeX, and gives its value.
//!
//! `sum = product (± product)*`, `product = power ((*|/|juxtaposition) power)*`, `power = ± atom (^ power)?`.
//! Everything is evaluated while it is read: a variable takes the value of the point, so one pass gives one value.

use std::collections::BTreeSet;

/// Brackets, roots and powers may be nested this deep.
const MAX_DEPTH: usize = 40;

/// An expression that could be read.
#[derive(Clone, Debug)]
pub(super) struct Expression {
    text: String,
    variables: BTreeSet<char>,
    percentage: bool,
}

impl Expression {
    /// Reads `text`; `None` where it is not an expression in its whole length.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let stripped = text.strip_suffix('%');
        let text = remove_thousands(stripped.unwrap_or(text).trim());
        let mut reader = Reader::new(&text, 1.0);
        reader.whole()?;
        let variables = std::mem::take(&mut reader.variables);
        Some(Self { text, variables, percentage: stripped.is_some() })
    }

    /// Single letters that are not functions or constants.
    pub(super) fn variables(&self) -> &BTreeSet<char> {
        &self.variables
    }

    /// Whether a percent sign followed; it is not part of the value.
    pub(super) fn is_percentage(&self) -> bool {
        self.percentage
    }

    /// The value where each variable is `point` times a factor of its own.
    pub(super) fn value(&self, point: f64) -> f64 {
        Reader::new(&self.text, point).whole().unwrap_or(f64::NAN)
    }
}

/// `1,234,567` as `1234567`; other commas stay and are not part of an expression.
fn remove_thousands(text: &str) -> String {
    let bytes = text.as_bytes();
    let digit = |index: usize| bytes.get(index).is_some_and(u8::is_ascii_digit);
    let groups = |index: usize| index > 0 && digit(index - 1) && (1..=3).all(|n| digit(index + n)) && !digit(index + 4);
    text.char_indices().filter(|&(index, c)| c != ',' || !groups(index)).map(|(_, c)| c).collect()
}

struct Reader<'a> {
    rest: &'a str,
    point: f64,
    depth: usize,
    variables: BTreeSet<char>,
}

impl<'a> Reader<'a> {
    fn new(text: &'a str, point: f64) -> Self {
        Self { rest: text, point, depth: 0, variables: BTreeSet::new() }
    }

    fn whole(&mut self) -> Option<f64> {
        let value = self.sum()?;
        self.peek().is_none().then_some(value)
    }

    /// The next character that is not white space.
    fn peek(&mut self) -> Option<char> {
        self.rest = self.rest.trim_start();
        self.rest.chars().next()
    }

    fn take(&mut self, prefix: &str) -> bool {
        self.peek();
        match self.rest.strip_prefix(prefix) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn sum(&mut self) -> Option<f64> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return None;
        }
        let mut value = self.product()?;
        loop {
            if self.take("+") {
                value += self.product()?;
            } else if self.take("-") {
                value -= self.product()?;
            } else {
                self.depth -= 1;
                return Some(value);
            }
        }
    }

    fn product(&mut self) -> Option<f64> {
        let mut value = self.signed()?;
        loop {
            if self.take("*") || self.take("\\times") || self.take("\\cdot") {
                value *= self.signed()?;
            } else if self.take("/") || self.take("\\div") {
                value /= self.signed()?;
            } else if self.peek().is_some_and(|c| c.is_alphanumeric() || matches!(c, '(' | '\\')) {
                value *= self.power()?;
            } else {
                return Some(value);
            }
        }
    }

    fn signed(&mut self) -> Option<f64> {
        if self.take("-") {
            return Some(-self.power()?);
        }
        self.take("+");
        self.power()
    }

    fn power(&mut self) -> Option<f64> {
        let mut value = self.atom()?;
        if self.take("°") {
            return Some(value);
        }
        if self.take("^") {
            value = value.powf(self.exponent()?);
        }
        Some(value)
    }

    fn atom(&mut self) -> Option<f64> {
        match self.peek()? {
            c if c.is_ascii_digit() || c == '.' => self.number(),
            '(' => self.bracketed("(", ")"),
            '{' => self.bracketed("{", "}"),
            '\\' => self.command(),
            c if c.is_ascii_alphabetic() => self.variable(c),
            _ => None,
        }
    }

    fn bracketed(&mut self, open: &str, close: &str) -> Option<f64> {
        (self.take(open)).then_some(())?;
        let value = self.sum()?;
        self.take(close).then_some(value)
    }

    /// What follows `^`: as people write it, so `2^10` is 1024 although LaTeX would raise 1 alone.
    fn exponent(&mut self) -> Option<f64> {
        let sign = if self.take("-") { -1.0 } else { 1.0 };
        Some(sign * self.atom()?)
    }

    /// What follows a command: a braced sum, or the next single digit, letter or command.
    fn argument(&mut self) -> Option<f64> {
        match self.peek()? {
            '{' => self.bracketed("{", "}"),
            c if c.is_ascii_digit() => {
                self.rest = &self.rest[1..];
                c.to_digit(10).map(f64::from)
            }
            _ => self.atom(),
        }
    }

    fn number(&mut self) -> Option<f64> {
        let digits = |text: &str| text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
        let mut end = digits(self.rest);
        if let Some(exponent) = self.rest[end..].strip_prefix(['e', 'E']) {
            let sign = usize::from(exponent.starts_with(['+', '-']));
            let length = exponent[sign..].find(|c: char| !c.is_ascii_digit()).unwrap_or(exponent.len() - sign);
            if length > 0 {
                end += 1 + sign + length;
            }
        }
        let value: f64 = self.rest[..end].parse().ok()?;
        let integral = value.fract() == 0.0 && !self.rest[..end].contains('.');
        self.rest = &self.rest[end..];
        // A whole number before a fraction of numbers is a mixed number: 1\frac{1}{2} is 1.5.
        self.peek();
        if integral && self.rest.starts_with("\\frac") {
            let n_variables = self.variables.len();
            let fraction = self.command()?;
            return Some(if self.variables.len() == n_variables { value + fraction } else { value * fraction });
        }
        Some(value)
    }

    fn command(&mut self) -> Option<f64> {
        let name = &self.rest[1..];
        let end = name.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(name.len());
        let name = &name[..end];
        self.rest = &self.rest[1 + end..];
        match name {
            "frac" => {
                let numerator = self.argument()?;
                Some(numerator / self.argument()?)
            }
            "sqrt" if self.peek() == Some('[') => {
                let degree = self.bracketed("[", "]")?;
                Some(self.argument()?.powf(1.0 / degree))
            }
            "sqrt" if self.peek() == Some('(') => Some(self.atom()?.sqrt()),
            "sqrt" => Some(self.argument()?.sqrt()),
            "pi" => Some(std::f64::consts::PI),
            "ln" => Some(self.atom()?.ln()),
            "log" => {
                let base = if self.take("_") { self.argument()? } else { 10.0 };
                Some(self.atom()?.log(base))
            }
            "sin" => Some(self.angle()?.sin()),
            "cos" => Some(self.angle()?.cos()),
            "tan" => Some(self.angle()?.tan()),
            _ => None,
        }
    }

    /// The argument of a trigonometric function in radians; a degree sign converts it.
    fn angle(&mut self) -> Option<f64> {
        let value = self.atom()?;
        Some(if self.take("°") { value.to_radians() } else { value })
    }

    fn variable(&mut self, letter: char) -> Option<f64> {
        let rest = &self.rest[1..];
        // Words are not products of letters.
        if rest.starts_with(|c: char| c.is_alphabetic()) {
            return None;
        }
        self.rest = rest;
        self.variables.insert(letter);
        Some(self.point * (1.0 + f64::from(letter as u32 % 61) / 61.0))
    }
}
