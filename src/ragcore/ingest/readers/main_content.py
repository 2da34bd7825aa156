"""Finds the main content of an HTML page.

The page is measured once: for each element, the length of its text and of its links. The content is the element that is marked as such (`main`, `article`);
if no element is marked, it is the element whose paragraphs have most of the text. Within it, boilerplate such as navigation, teasers and comments is left
out. The names or the links of an element show that it is boilerplate.

Source: A. Barbaresi, "Trafilatura" (ACL 2021); C. Kohlschütter et al., "Boilerplate detection using shallow text features" (WSDM 2010): link density.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

__all__ = ["Content", "content_of", "is_hidden"]

# An id or class that begins like this marks boilerplate, even if it has much text.
BOILERPLATE = re.compile(
    r"(?:(?:nav|navi|navbar|navigation|main-?menu|breadcrumbs?|brotkrumen?|skip|skip-?links?|masthead|"
    r"(?:site|page|global|main)-?(?:header|footer|nav\w*)|footer|fuss(?:zeile)?|colophon|"
    r"cookies?\w*|consent|gdpr|newsletter|signup|paywall|"
    r"advert\w*|anzeigen?|werbung|outbrain|taboola|adsense|shariff|addthis\w*|addtoany\w*|a2a|yarpp|disqus\w*|commentlist|"
    r"author-?(?:box|bio|info|card)|authorbox|about-?(?:the-?)?author|tag-?(?:list|links|cloud)|tagcloud|cat-?links|"
    r"pagination|pager|paging|post-?nav\w*|nav-?(?:links|previous|next|below|above)|prev-?next|"
    r"screen-?reader-?text|sr-only|visually-?hidden|noprint|no-print|copyright|imprint)(?:$|[\-_\d])"
    # These words also occur in names of content, so they count only if the name has no other words.
    r"|(?:menue?|share(?:daddy|-?(?:this|bar|buttons?|links?|icons?|tools?|box|widget|post|page|list))?|sharing|"
    r"social(?:-?(?:share|links?|icons?|media|bar|buttons?|nav|list))?|"
    r"(?:you-?may-?)?also-?like|related(?:-?(?:posts?|articles?|links?|content|news|stories|items|topics))?|"
    r"recommend(?:ed|ations?)(?:-?(?:posts?|articles?|for-?you))?|similar-?(?:posts?|articles?)|more-?(?:posts|articles|stories|news)|read-?more|"
    r"(?:li-)?comments?(?:-?(?:list|area|section|form|wrap(?:per)?|respond|thread|body|content|box|count|reply))?|kommentare?|respond|replies)"
    r"(?:[\-_]?\d+)?(?:$|__|--))",
    re.IGNORECASE,
)
# An id or class that begins like this marks boilerplate only if the element is small compared with the content.
MAYBE_BOILERPLATE = re.compile(
    r"(?:side-?bar\w*|side|aside|rechts|marginal\w*|widget\w*|rail|toolbar|topbar|header\w*|head|footer\w*|bottom\w*|"
    r"ads?|sponsor\w*|promo\w*|banner\w*|follow\w*|facebook\w*|twitter\w*|subscri\w+|login|"
    r"teasers?\w*|meta\w*|post-?meta|entry-?(?:meta|footer|utility)|post-?(?:footer|info|tags|date)|byline|dateline|author\w*|tags?|keywords|categor\w+|"
    r"print\w*|tools?|ratings?\w*|votes?|search\w*|suche|popular\w*|latest\w*|recent\w*|trending|most-?\w+|archives?|top-?\w*|"
    r"modal\w*|popup\w*|overlay\w*|lightbox\w*|tooltip|jp-\w+|info-?box|credits?|caption-?credit|"
    r"bookmark\w*|feeds?|rss|tickers?|slider\w*|carousel\w*|gallery-?nav|language\w*|lang-?\w*|links?|menu\w*)(?:$|[\-_\d])",
    re.IGNORECASE,
)
# An element whose id or class contains one of these is the content.
NAMED = re.compile(
    r"(?:^|[\s_\-])(?:article-?(?:body|content|text)|post-?(?:body|content|text|entry)|entry-?(?:content|body|text)|story-?(?:body|content)|"
    r"page-?content|main-?content|content-?(?:body|main|area|text)|body-?(?:content|text)|article__(?:body|content)|post__(?:body|content)|"
    r"articlebody|postcontent|entrycontent|storycontent|text-?content|news-?(?:text|body|content)|artikel-?(?:text|inhalt)?|beitrag|inhalt|hauptinhalt)(?:$|[\s_\-])",
    re.IGNORECASE,
)
# Below such a short heading there are links that lead away from the page. Languages: English, German, French, Spanish, Italian, Dutch and Polish.
LEADS_AWAY = re.compile(
    r"\W*(?:(?:more|read|see|you (?:may|might)) (?:also|more|like|next)\b.*|related\b.*|recommended\b.*|similar (?:posts|articles)|share(?: this)?\b.*|"
    r"(?:leave|post|write) a (?:reply|comment)|(?:\d+ )?comments?|tags?|categories|about the author|follow us|newsletter|latest (?:news|posts)|"
    r"most (?:read|popular)|popular\b.*|mehr zum thema.*|auch interessant.*|weitere (?:artikel|themen|meldungen|beiträge|informationen|links).*|"
    r"das könnte (?:sie|dich|ihnen).*|ähnliche (?:artikel|beiträge|themen)|schlagworte|kategorien|kommentare?(?: \(\d+\))?|(?:\d+ )?kommentare?|"
    r"(?:schreibe|hinterlasse) einen kommentar|über den autor.*|teilen\b.*|verwandte (?:artikel|themen).*|neueste (?:beiträge|kommentare)|links zum thema|"
    r"à lire aussi.*|lire aussi.*|sur le même (?:sujet|thème)|commentaires?|partager.*|articles (?:liés|similaires)|te puede interesar.*|"
    r"más (?:información|noticias)|relacionad[oa]s?|comentarios|compartir|leggi anche.*|articoli correlati|commenti|condividi|lees ook.*|reacties|"
    r"zobacz (?:także|też).*|czytaj (?:także|też|więcej).*|komentarze|polecane.*)\W*$",
    re.IGNORECASE,
)
MOST_HEADING = 60
# Names of elements whose content is hidden until the reader opens it.
FOLDED = re.compile(r"accordion|collaps|toggle|tab-?pane|tab-?panel|panel|expand|faq|details|answer", re.IGNORECASE)
BOILERPLATE_TAGS = frozenset({"aside", "footer", "nav"})
BOILERPLATE_ROLES = frozenset(
    {"navigation", "banner", "contentinfo", "search", "dialog", "alertdialog", "complementary", "menu", "menubar"}
)
HEADINGS = frozenset({"h1", "h2", "h3", "h4", "h5", "h6"})
NEVER = frozenset({"html", "body", "main", "article", "td", "th", "tr", "tbody", "table", "p", "h1", "h2", "pre"})
LEFT_OUT = frozenset({"script", "style", "noscript", "template", "head"})
HIDDEN = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.IGNORECASE)
# A part with more than this share of the content's text is content, even if its name says otherwise.
MOST_BOILERPLATE = 0.5
SMALL = 0.15
# A part with a name of MAYBE_BOILERPLATE is left out if its share of links is larger than this.
LEADING = 0.3
# A list or part with a larger share of links than this is navigation.
LINKED = 0.6
LEAST_LINKS = 3
# A paragraph that consists of a link and is not longer than this is left out.
MOST_LINK = 60
NEARLY_ALL = 0.95
# The largest number of levels that the search for the content descends, because each level costs a search through all elements below it.
MOST_DESCENT = 60
LEAST_CONTENT = 200
LEAST_PARAGRAPH = 60


@dataclass(slots=True)
class _Measured:
    """The numbers of an element: the characters of its text, of its links and of its paragraphs with few links, and the number of its links.

    The numbers of an element don't include boilerplate within it, except `visible`, which counts all text.
    """

    text: int = 0
    links: int = 0
    link_count: int = 0
    paragraphs: int = 0
    visible: int = 0
    is_boilerplate: bool = False


class Content:
    """The content of a page: the element that holds it, and a test for the elements that are left out."""

    def __init__(self, start: Any, is_left_out: Callable[[Any], bool]) -> None:
        self.start = start
        self.is_left_out = is_left_out


def content_of(body: Any, *, whole: bool = False) -> Content:
    """Return the content of a page.

    Args:
        body: the page's body element.
        whole: whether everything that a reader can see counts as content.
    """
    if whole:
        return Content(body, is_hidden)
    measured = _measure(body)
    start = _start(body, measured)
    size = max(1, _weight(_of(measured, start)))
    # No element looks like content: use the whole page, without the elements that are marked as boilerplate.
    if size < LEAST_CONTENT and 4 * size < _of(measured, body).visible:
        return Content(body, lambda node: _of(measured, node).is_boilerplate)

    # If the page marks its content, lists of links in it are content as well, such as forms to download.
    marked = start.tag in ("main", "article") or start.attributes.get("role") == "main"
    leads_away = _leading_away(start, measured, SMALL * 2 * size)

    def is_left_out(node: Any) -> bool:
        found = _of(measured, node)
        if found.is_boilerplate or node.mem_id in leads_away:
            return True
        if _weight(found) >= MOST_BOILERPLATE * size or node.tag in NEVER - {"p"}:
            return False
        leads = found.links > LEADING * found.text or found.text < MOST_LINK
        if (
            leads
            and found.paragraphs < SMALL * size
            and any(MAYBE_BOILERPLATE.match(name) for name in _names(node).split())
        ):
            return True
        if node.tag in ("p", "div") and 0 < found.text <= MOST_LINK and found.links == found.text:
            return True
        return (
            not marked
            and node.tag in ("ul", "ol", "div", "section")
            and found.link_count >= LEAST_LINKS
            and found.links > LINKED * found.text
        )

    return Content(start, is_left_out)


def _leading_away(start: Any, measured: dict[int, _Measured], most: float) -> set[int]:
    """Return the headings that match LEADS_AWAY and the elements under them, if these elements are short and mostly links.

    The elements under a heading end at the next heading of the same or a higher level.
    """
    away: set[int] = set()
    for heading in start.css("h2, h3, h4, h5, h6"):
        text = " ".join(heading.text(deep=True).split())
        if len(text) > MOST_HEADING or not LEADS_AWAY.match(text):
            continue
        below, weight, node = [heading.mem_id], 0, heading.next
        words = links = 0
        while node is not None and not (node.tag in HEADINGS and node.tag <= heading.tag):
            found = _of(measured, node)
            weight, words, links = weight + found.paragraphs, words + found.text, links + found.links
            below.append(node.mem_id)
            node = node.next
        if weight < most and 2 * links >= words:
            away.update(below)
    return away


def _of(measured: dict[int, _Measured], node: Any) -> _Measured:
    return measured.get(node.mem_id) or _Measured()


def _weight(found: _Measured) -> int:
    return found.paragraphs or found.text - found.links


def _names(node: Any) -> str:
    attributes = node.attributes
    words = f"{attributes.get('id') or ''} {attributes.get('class') or ''}"
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", words)


def is_hidden(node: Any) -> bool:
    """Return whether an element is hidden and a reader can't open it, or its role marks boilerplate, such as navigation."""
    attributes = node.attributes
    if not attributes:
        return False
    if (attributes.get("role") or "") in BOILERPLATE_ROLES:
        return True
    hides = (
        ("hidden" in attributes and attributes["hidden"] != "until-found")
        or attributes.get("aria-hidden") == "true"
        or HIDDEN.search(attributes.get("style") or "") is not None
    )
    return hides and not FOLDED.search(f"{_names(node)} {attributes.get('role') or ''}")


def _measure(body: Any) -> dict[int, _Measured]:
    """Measure each element, without recursion."""
    measured: dict[int, _Measured] = {}
    # Each entry: the element, the index of its parent in `found`, and whether it is in a link. An element's numbers are added to its parent's after those of
    # all elements within it.
    order: list[tuple[Any, int, bool]] = []
    stack: list[tuple[Any, int, bool]] = [(body, -1, False)]
    found: list[_Measured] = []
    while stack:
        node, parent, in_link = stack.pop()
        tag = node.tag or "-none"
        if tag == "-text":
            length = len("".join((node.text_content or "").split()))
            mine = found[parent]
            mine.text += length
            if in_link:
                mine.links += length
            continue
        if tag.startswith("-") or tag in LEFT_OUT:
            continue
        number = len(found)
        found.append(_Measured(link_count=int(tag == "a")))
        order.append((node, parent, in_link))
        measured[node.mem_id] = found[number]
        inner = in_link or tag == "a"
        stack += [(child, number, inner) for child in reversed(list(node.iter(include_text=True)))]
    sizes = [mine.text for mine in found]
    for number in range(len(found) - 1, 0, -1):
        sizes[order[number][1]] += sizes[number]
    for number in range(len(found) - 1, -1, -1):
        node, parent, _ = order[number]
        mine = found[number]
        mine.visible = sizes[number]
        if node.tag in ("p", "td", "li", "blockquote", "pre", "dd") and not mine.paragraphs:
            own = mine.text - mine.links
            if mine.text >= LEAST_PARAGRAPH and own > 0.6 * mine.text:
                mine.paragraphs = own
        # An element that holds most of the page is content, even if its name says otherwise.
        mine.is_boilerplate = sizes[number] < MOST_BOILERPLATE * sizes[0] and _is_boilerplate(node, mine)
        if parent >= 0 and not mine.is_boilerplate:
            above = found[parent]
            above.text += mine.text
            above.links += mine.links
            above.link_count += mine.link_count
            above.paragraphs += mine.paragraphs
    return measured


def _is_boilerplate(node: Any, found: _Measured) -> bool:
    if node.tag == "aside" and found.paragraphs and found.links < LEADING * found.text:
        return False
    if node.tag in BOILERPLATE_TAGS or is_hidden(node):
        return True
    return node.tag not in NEVER and any(BOILERPLATE.match(name) for name in _names(node).split())


def _start(body: Any, measured: dict[int, _Measured]) -> Any:
    """Return the element that holds the content."""
    whole = _of(measured, body)
    for selector in ("main", "[role=main]"):
        found = [node for node in body.css(selector) if _of(measured, node).text >= LEAST_CONTENT]
        if len(found) == 1:
            return _narrowed(found[0], measured)
    return _narrowed(body, measured) if whole.text else body


def _narrowed(outer: Any, measured: dict[int, _Measured]) -> Any:
    """Return the article within an element, or the element whose name means content, or else the densest element."""
    size = max(1, _weight(_of(measured, outer)))
    articles = [node for node in outer.css("article") if _weight(_of(measured, node)) >= LEAST_CONTENT]
    if articles:
        best = max(articles, key=lambda node: _weight(_of(measured, node)))
        if _weight(_of(measured, best)) > 0.5 * sum(
            _weight(_of(measured, node)) for node in articles if not _within(node, articles)
        ):
            return best
    named = [
        node
        for node in _elements(outer)
        if node.tag in ("div", "section", "td")
        and NAMED.search(_names(node))
        and _weight(_of(measured, node)) > 0.4 * size
    ]
    return _densest(min(named, key=lambda node: _of(measured, node).text) if named else outer, measured)


def _densest(outer: Any, measured: dict[int, _Measured]) -> Any:
    """Return the smallest element that holds nearly all paragraphs of an element."""
    least = NEARLY_ALL * _of(measured, outer).paragraphs
    if _of(measured, outer).paragraphs < LEAST_CONTENT:
        return outer
    for _ in range(MOST_DESCENT):
        inner = [
            child
            for child in outer.iter()
            if child.tag in ("div", "section", "article", "main", "center", "td", "tr", "tbody", "table", "form")
            and _of(measured, child).paragraphs >= least
        ]
        if not inner or inner[0].css_first("p, div, h1, h2, h3, table, ul") is None:
            return outer
        beside = [child for child in outer.iter() if child.mem_id != inner[0].mem_id]
        if any(
            (child.tag == "h1" or child.css_first("h1")) and not _of(measured, child).is_boilerplate for child in beside
        ):
            return outer  # keep the outer element, because the heading above the content belongs to the content
        outer = inner[0]
    return outer


def _within(node: Any, others: list[Any]) -> bool:
    parent = node.parent
    while parent is not None:
        if parent.tag == "article" and any(parent.mem_id == other.mem_id for other in others):
            return True
        parent = parent.parent
    return False


def _elements(outer: Any) -> Iterator[Any]:
    stack = [outer]
    while stack:
        node = stack.pop()
        yield node
        stack += [child for child in node.iter() if child.tag not in LEFT_OUT]
