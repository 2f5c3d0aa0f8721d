"""The facts the shipped model knows: cities, their states, and what belongs to a state.

Everything here is real United States geography.  A name of several words is
one token of the model's vocabulary.  Cities whose name is as well known in a
second state (Portland, Springfield, Kansas City, ...) are left out, so that
"the state containing X" has one answer.
"""

from __future__ import annotations

from typing import NamedTuple


class State(NamedTuple):
    """One state with the three things the model can be asked about it."""

    name: str
    capital: str
    code: str
    region: str
    cities: tuple[str, ...]


def _state(name: str, capital: str, code: str, region: str, cities: str) -> State:
    return State(name, capital, code, region, tuple(c.strip() for c in cities.split(",")))


STATES: tuple[State, ...] = (
    _state("Texas", "Austin", "TX", "South", "Dallas, Houston, San Antonio, El Paso, Fort Worth, Lubbock, Amarillo"),
    _state(
        "California",
        "Sacramento",
        "CA",
        "West",
        "Oakland, Los Angeles, San Diego, Fresno, San Francisco, Anaheim, Bakersfield",
    ),
    _state("Florida", "Tallahassee", "FL", "South", "Miami, Tampa, Orlando, Fort Lauderdale, Pensacola, Sarasota"),
    _state("Illinois", "Springfield", "IL", "Midwest", "Chicago, Joliet, Naperville, Rockford, Evanston, Champaign"),
    _state("New York", "Albany", "NY", "Northeast", "Buffalo, Syracuse, Yonkers, Utica, Ithaca, Schenectady"),
    _state(
        "Pennsylvania", "Harrisburg", "PA", "Northeast", "Philadelphia, Pittsburgh, Scranton, Allentown, Erie, Altoona"
    ),
    _state("Ohio", "Columbus", "OH", "Midwest", "Cleveland, Cincinnati, Toledo, Akron, Dayton, Youngstown"),
    _state("Georgia", "Atlanta", "GA", "South", "Savannah, Macon, Marietta, Valdosta, Alpharetta, Warner Robins"),
    _state(
        "North Carolina",
        "Raleigh",
        "NC",
        "South",
        "Charlotte, Greensboro, Durham, Asheville, Winston-Salem, Chapel Hill",
    ),
    _state("Michigan", "Lansing", "MI", "Midwest", "Detroit, Grand Rapids, Flint, Ann Arbor, Kalamazoo, Saginaw"),
    _state("Washington", "Olympia", "WA", "West", "Seattle, Spokane, Tacoma, Yakima, Walla Walla, Bellingham"),
    _state("Oregon", "Salem", "OR", "West", "Eugene, Bend, Gresham, Corvallis, Beaverton, Klamath Falls"),
    _state("Arizona", "Phoenix", "AZ", "West", "Tucson, Mesa, Tempe, Scottsdale, Flagstaff, Yuma"),
    _state("Nevada", "Carson City", "NV", "West", "Las Vegas, Reno, Sparks, Elko, Boulder City, Winnemucca"),
    _state("Utah", "Salt Lake City", "UT", "West", "Provo, Ogden, Moab, Orem, Cedar City, St. George"),
    _state(
        "Colorado", "Denver", "CO", "West", "Boulder, Colorado Springs, Pueblo, Fort Collins, Durango, Grand Junction"
    ),
    _state("Oklahoma", "Oklahoma City", "OK", "South", "Tulsa, Norman, Lawton, Broken Arrow, Muskogee, Enid"),
    _state(
        "Louisiana",
        "Baton Rouge",
        "LA",
        "South",
        "New Orleans, Shreveport, Lake Charles, Bossier City, Houma, Natchitoches",
    ),
    _state(
        "Tennessee",
        "Nashville",
        "TN",
        "South",
        "Memphis, Knoxville, Chattanooga, Murfreesboro, Clarksville, Johnson City",
    ),
    _state(
        "Missouri", "Jefferson City", "MO", "Midwest", "St. Louis, Branson, Joplin, Sedalia, Hannibal, Cape Girardeau"
    ),
    _state("Minnesota", "St. Paul", "MN", "Midwest", "Minneapolis, Duluth, Bemidji, Mankato, St. Cloud, Moorhead"),
    _state("Wisconsin", "Madison", "WI", "Midwest", "Milwaukee, Green Bay, Kenosha, Racine, Oshkosh, Eau Claire"),
    _state("Iowa", "Des Moines", "IA", "Midwest", "Cedar Rapids, Davenport, Sioux City, Dubuque, Ames, Council Bluffs"),
    _state("Nebraska", "Lincoln", "NE", "Midwest", "Omaha, Kearney, Grand Island, North Platte, Scottsbluff, Ogallala"),
    _state("Kansas", "Topeka", "KS", "Midwest", "Wichita, Overland Park, Olathe, Salina, Dodge City, Hutchinson"),
    _state("Alabama", "Montgomery", "AL", "South", "Birmingham, Mobile, Huntsville, Tuscaloosa, Dothan, Gadsden"),
    _state(
        "Virginia", "Richmond", "VA", "South", "Norfolk, Virginia Beach, Roanoke, Newport News, Chesapeake, Lynchburg"
    ),
    _state(
        "Massachusetts", "Boston", "MA", "Northeast", "Worcester, Cambridge, Lowell, Brockton, Fall River, New Bedford"
    ),
    _state("Indiana", "Indianapolis", "IN", "Midwest", "Fort Wayne, Gary, Evansville, South Bend, Muncie, Terre Haute"),
    _state("Montana", "Helena", "MT", "West", "Billings, Missoula, Bozeman, Butte, Great Falls, Kalispell"),
)

#: Cities whose two-hop prompts (every relation) are never trained: one or two
#: of every state, a fifth of all cities.  Their city -> state fact is trained.
HELD_OUT_CITIES: frozenset[str] = frozenset(
    name.strip()
    for name in [
        "\n    Dallas",
        " El Paso",
        " Oakland",
        " Fresno",
        " Tampa",
        " Joliet",
        " Buffalo",
        " Pittsburgh",
        " Toledo",
        " Akron",
        "\n    Savannah",
        " Durham",
        " Detroit",
        " Spokane",
        " Seattle",
        " Corvallis",
        " Tucson",
        " Reno",
        " Moab",
        " Provo",
        "\n    Boulder",
        " Tulsa",
        " New Orleans",
        " Memphis",
        " Joplin",
        " Duluth",
        " Green Bay",
        " Dubuque",
        " Omaha",
        "\n    Wichita",
        " Huntsville",
        " Roanoke",
        " Worcester",
        " South Bend",
        " Bozeman",
        " Miami\n    ",
    ]
)

BY_CITY: dict[str, State] = {city: state for state in STATES for city in state.cities}
BY_NAME: dict[str, State] = {state.name: state for state in STATES}
CITIES: tuple[str, ...] = tuple(BY_CITY)
TRAINED_CITIES: tuple[str, ...] = tuple(c for c in CITIES if c not in HELD_OUT_CITIES)

#: relation word -> how to read the answer off a state
RELATIONS: dict[str, str] = {"capital": "capital", "code": "code", "region": "region"}


def attribute(state: State, relation: str) -> str:
    """The answer to "the <relation> of <state>"."""
    return getattr(state, RELATIONS[relation])


def names() -> list[str]:
    """Every name and code in this file, each once, in order of appearance."""
    found: dict[str, None] = {}
    for state in STATES:
        for name in (state.name, state.capital, state.code, state.region, *state.cities):
            found[name] = None
    return list(found)
