//! Names for a browser and its system, out of what it says of itself. No browser API is called here.
//!
//! Chromium's family tells its brands as data, the others only a user agent string, in which each pretends to be its
//! predecessors: so the most particular token wins.

/// What a browser says of itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Claims {
    /// The user agent string.
    pub(crate) user_agent: String,
    /// Brands and their versions, from user agent data.
    pub(crate) brands: Vec<(String, String)>,
    /// The platform, from user agent data, as in `Linux`.
    pub(crate) platform: String,
    /// The platform's version, from user agent data.
    pub(crate) platform_version: String,
    /// The architecture and its width, from user agent data, as in `x86` and `64`.
    pub(crate) architecture: (String, String),
    /// Whether it calls itself mobile, from user agent data.
    pub(crate) mobile: Option<bool>,
}

/// What a browser is called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    /// `chromium`, `chrome`, `edge`, `firefox`, `safari` or another name.
    pub(crate) browser: String,
    /// Its version, as full as it is told.
    pub(crate) version: String,
    /// Its system, as in `Linux x86_64`.
    pub(crate) os: String,
    /// Whether it runs on a phone or tablet.
    pub(crate) mobile: bool,
}

/// Brands, the most particular first: every browser of the family also claims to be Chromium.
const BRANDS: &[(&str, &str)] = &[
    ("Microsoft Edge", "edge"),
    ("HeadlessEdg", "edge"),
    ("Opera", "opera"),
    ("Brave", "brave"),
    ("Samsung Internet", "samsung"),
    ("Google Chrome", "chrome"),
    ("HeadlessChrome", "chromium"),
    ("Chromium", "chromium"),
];

/// Tokens of user agent strings, the most particular first.
const TOKENS: &[(&str, &str)] = &[
    ("Edg/", "edge"),
    ("EdgA/", "edge"),
    ("EdgiOS/", "edge"),
    ("OPR/", "opera"),
    ("SamsungBrowser/", "samsung"),
    ("FxiOS/", "firefox"),
    ("Firefox/", "firefox"),
    ("CriOS/", "chrome"),
    ("HeadlessChrome/", "chromium"),
    ("Chromium/", "chromium"),
    ("Chrome/", "chrome"),
    ("Version/", "safari"),
];

/// Puts names to what a browser says.
pub(crate) fn identify(claims: &Claims) -> Identity {
    let agent = claims.user_agent.as_str();
    let by_brand = BRANDS.iter().find_map(|(brand, name)| {
        let (_, version) = claims.brands.iter().find(|(b, _)| b == brand)?;
        Some(((*name).to_owned(), version.clone()))
    });
    let by_token = || {
        let (name, after) = TOKENS.iter().find_map(|(token, name)| Some((name, agent.split_once(token)?.1)))?;
        let end = after.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(after.len());
        Some(((*name).to_owned(), after[..end].to_owned()))
    };
    let (browser, version) = by_brand.or_else(by_token).unwrap_or_else(|| ("unknown".to_owned(), String::new()));
    let phone = ["Mobile", "Android", "iPhone", "iPad"].iter().any(|word| agent.contains(word));
    Identity { browser, version, os: system(claims), mobile: claims.mobile.unwrap_or(phone) }
}

fn system(claims: &Claims) -> String {
    if !claims.platform.is_empty() {
        let architecture = match (claims.architecture.0.as_str(), claims.architecture.1.as_str()) {
            ("x86", "64") => "x86_64",
            ("arm", "64") => "aarch64",
            (other, _) => other,
        };
        let parts = [claims.platform.as_str(), &claims.platform_version, architecture];
        return parts.into_iter().filter(|p| !p.is_empty()).collect::<Vec<_>>().join(" ");
    }
    let agent = claims.user_agent.as_str();
    let inside = agent.split_once('(').and_then(|(_, rest)| rest.split_once(')')).map_or("", |(inside, _)| inside);
    let mut parts = inside.split(';').map(str::trim).filter(|part| !part.starts_with("rv:"));
    let known =
        |part: &&str| ["Linux", "Android", "Windows", "Mac OS X", "iPhone OS", "CrOS"].iter().any(|w| part.contains(w));
    let found = parts.rfind(known).unwrap_or_default();
    if found.contains("iPhone OS") || found.starts_with("CPU OS") {
        return "iOS".to_owned();
    }
    // Browsers froze the version they tell for a Mac years ago.
    if found.contains("Mac OS X") { "macOS".to_owned() } else { found.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::{Claims, identify};

    fn by_agent(agent: &str) -> (String, String, String, bool) {
        let claims = Claims { user_agent: agent.to_owned(), ..Claims::default() };
        let found = identify(&claims);
        (found.browser, found.version, found.os, found.mobile)
    }

    fn expected(browser: &str, version: &str, os: &str, mobile: bool) -> (String, String, String, bool) {
        (browser.to_owned(), version.to_owned(), os.to_owned(), mobile)
    }

    #[test]
    fn user_agents_get_the_most_particular_name() {
        let firefox = "Mozilla/5.0 (X11; Linux x86_64; rv:153.0) Gecko/20100101 Firefox/153.0";
        assert_eq!(by_agent(firefox), expected("firefox", "153.0", "Linux x86_64", false));
        let phone = "Mozilla/5.0 (Android 14; Mobile; rv:140.0) Gecko/140.0 Firefox/140.0";
        assert_eq!(by_agent(phone), expected("firefox", "140.0", "Android 14", true));
        let headless = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) HeadlessChrome/156.0.0.0 Safari/537.36";
        assert_eq!(by_agent(headless), expected("chromium", "156.0.0.0", "Linux x86_64", false));
        let edge = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36 Edg/140.0.0.0";
        assert_eq!(by_agent(edge), expected("edge", "140.0.0.0", "Windows NT 10.0", false));
        let safari = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/26.0 Safari/605.1.15";
        assert_eq!(by_agent(safari), expected("safari", "26.0", "macOS", false));
        let iphone = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.1 Mobile/15E148 Safari/604.1";
        assert_eq!(by_agent(iphone), expected("safari", "18.1", "iOS", true));
        assert_eq!(by_agent("curl/8"), expected("unknown", "", "", false));
    }

    #[test]
    fn brands_win_over_the_user_agent() {
        let brand = |name: &str, version: &str| (name.to_owned(), version.to_owned());
        let mut claims = Claims {
            user_agent: "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/156.0.0.0 Safari/537.36".to_owned(),
            brands: vec![brand("Not A;Brand", "99"), brand("Chromium", "156.0.1.2")],
            platform: "Linux".to_owned(),
            architecture: ("x86".to_owned(), "64".to_owned()),
            mobile: Some(false),
            ..Claims::default()
        };
        let chromium = identify(&claims);
        assert_eq!((&*chromium.browser, &*chromium.version), ("chromium", "156.0.1.2"));
        assert_eq!(chromium.os, "Linux x86_64");
        claims.brands.push(brand("Google Chrome", "156.0.1.3"));
        assert_eq!(identify(&claims).browser, "chrome");
        claims.brands.push(brand("Microsoft Edge", "156.0.1.4"));
        assert_eq!(identify(&claims).version, "156.0.1.4");
    }
}
