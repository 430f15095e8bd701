//! Which route a request is of: the patterns of [`model::workload::Route`] as a tree of segments.

use http::Method;
use memchr::memchr;
use model::flow;
use model::workload::Route;

/// Methods that routes can have.
const METHODS: usize = 7;

/// The routes that end at one node, by method.
type Ends = [Option<u16>; METHODS];

/// The patterns of one release. A search looks at each node once at most.
#[derive(Debug)]
pub(crate) struct Patterns {
    /// The first one is the root.
    nodes: Vec<Node>,
}

/// What may follow some segments.
#[derive(Debug, Default)]
struct Node {
    /// A segment with this text; sorted.
    text: Vec<(Box<[u8]>, usize)>,
    /// `*`: any segment that is not empty.
    any: Option<usize>,
    /// `**`: any rest, also none.
    rest: Ends,
    /// Nothing.
    end: Ends,
}

impl Patterns {
    /// Of two equal routes the first one counts.
    pub(crate) fn new(routes: &[Route]) -> Self {
        let mut patterns = Self { nodes: vec![Node::default()] };
        for (index, route) in routes.iter().enumerate() {
            let Ok(index) = u16::try_from(index) else { break };
            patterns.add(route, index);
        }
        patterns
    }

    fn add(&mut self, route: &Route, index: u16) {
        let (mut node, method) = (0, route.method as usize);
        let mut segments = route.path.strip_prefix('/').unwrap_or(&route.path).split('/').peekable();
        while let Some(segment) = segments.next() {
            if segment == "**" && segments.peek().is_none() {
                self.nodes[node].rest[method].get_or_insert(index);
                return;
            }
            node = match segment {
                "*" => self.any(node),
                text => self.text(node, text.as_bytes()),
            };
        }
        self.nodes[node].end[method].get_or_insert(index);
    }

    fn any(&mut self, node: usize) -> usize {
        let next = self.nodes.len();
        let any = *self.nodes[node].any.get_or_insert(next);
        if any == next {
            self.nodes.push(Node::default());
        }
        any
    }

    fn text(&mut self, node: usize, text: &[u8]) -> usize {
        let next = self.nodes.len();
        let known = &mut self.nodes[node].text;
        match known.binary_search_by(|(there, _)| (**there).cmp(text)) {
            Ok(place) => known[place].1,
            Err(place) => {
                known.insert(place, (text.into(), next));
                self.nodes.push(Node::default());
                next
            }
        }
    }

    /// The route of a request, by its place in the list the patterns were made from. `path` is without query.
    pub(crate) fn find(&self, method: &Method, path: &str) -> Option<u16> {
        let method = match *method {
            Method::GET => flow::Method::Get,
            Method::HEAD => flow::Method::Head,
            Method::OPTIONS => flow::Method::Options,
            Method::POST => flow::Method::Post,
            Method::PUT => flow::Method::Put,
            Method::PATCH => flow::Method::Patch,
            Method::DELETE => flow::Method::Delete,
            _ => return None,
        };
        self.search(0, Some(path.as_bytes().strip_prefix(b"/")?), method as usize)
    }

    /// `left`: what follows the next slash. None: there is no further one.
    fn search(&self, node: usize, left: Option<&[u8]>, method: usize) -> Option<u16> {
        let node = &self.nodes[node];
        let Some(left) = left else { return node.end[method].or(node.rest[method]) };
        let (segment, after) = match memchr(b'/', left) {
            Some(slash) => (&left[..slash], Some(&left[slash + 1..])),
            None => (left, None),
        };
        let text = node.text.binary_search_by(|(there, _)| (**there).cmp(segment)).ok();
        text.and_then(|place| self.search(node.text[place].1, after, method))
            .or_else(|| {
                let any = node.any.filter(|_| !segment.is_empty())?;
                self.search(any, after, method)
            })
            .or(node.rest[method])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(names: &[&str]) -> Patterns {
        let route = |name: &&str| {
            let (method, path) = name.split_once(' ').unwrap();
            let method = serde_json::from_value(method.into()).unwrap();
            Route { method, path: path.into(), objective: None, queue: None, previous_stamp: None }
        };
        Patterns::new(&names.iter().map(route).collect::<Vec<_>>())
    }

    #[test]
    fn text_goes_before_one_segment_before_any_rest() {
        let names = [
            "GET /",
            "GET /api/products",
            "GET /api/products/*",
            "GET /api/products/new",
            "GET /api/**",
            "POST /api/products",
            "GET /api/*/reviews/*",
            "GET /api/products/*/images/**",
            "DELETE /**",
            "GET /api/products/*",
        ];
        let patterns = patterns(&names);
        for (request, route) in [
            ("GET /", Some(0)),
            ("GET /other", None),
            ("GET //", None),
            ("GET /api/products", Some(1)),
            ("GET /api/products/", Some(4)),
            ("GET /api/products/7", Some(2)),
            ("GET /api/products/new", Some(3)),
            ("GET /api/products/newer", Some(2)),
            ("GET /api/products/new/reviews", Some(4)),
            ("GET /api", Some(4)),
            ("GET /api/", Some(4)),
            ("GET /apis", None),
            ("GET /api/a/b/c/d", Some(4)),
            ("POST /api/products", Some(5)),
            ("POST /api/products/7", None),
            // From the left: `products` is text there, but nothing under it fits.
            ("GET /api/products/reviews/7", Some(6)),
            ("GET /api/shop/reviews/7", Some(6)),
            ("GET /api/shop/reviews/", Some(4)),
            ("GET /api/products/7/images", Some(7)),
            ("GET /api/products/7/images/a/b", Some(7)),
            ("GET /api/products/new/images/a", Some(7)),
            ("DELETE /", Some(8)),
            ("DELETE /any/thing", Some(8)),
            ("HEAD /", None),
            ("TRACE /", None),
            ("DELETE *", None),
        ] {
            let (method, path) = request.split_once(' ').unwrap();
            assert_eq!(patterns.find(&method.parse().unwrap(), path), route, "{request}");
        }
    }

    #[test]
    fn many_slashes_are_not_followed_further_than_patterns_go() {
        let patterns = patterns(&["GET /*/*/a", "GET /*/b/*", "GET /c/*/*"]);
        assert_eq!(patterns.find(&Method::GET, &"/".repeat(60_000)), None);
        assert_eq!(patterns.find(&Method::GET, "/c/b/a"), Some(2));
        assert_eq!(patterns.find(&Method::GET, "/d/b/a"), Some(1));
        assert_eq!(patterns.find(&Method::GET, "/d/e/a"), Some(0));
    }
}
