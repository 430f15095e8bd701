//! The shoes the shop sells: each is a pure function of its number, so every database is filled alike.

/// How many shoes there are; their numbers run from 1 to this.
pub(crate) const COUNT: u32 = 10_000;
/// Pieces of each in stock at first.
pub(crate) const STOCK: i64 = 1_000_000;

/// Changing it changes every shoe of databases made from then on.
const SEED: u64 = 0x5348_4F45_5331;

const BRANDS: [&str; 12] = [
    "Alder", "Birkholt", "Corsa", "Dunmore", "Estrada", "Fjellvik", "Granite", "Havn", "Isolde", "Juniper",
    "Kestrel", "Larkspur",
];
const COLOURS: [&str; 14] = [
    "amber", "black", "blue", "brown", "cream", "crimson", "forest", "grey", "navy", "olive", "sand",
    "silver", "violet", "white",
];
const MATERIALS: [&str; 8] = ["canvas", "cork", "felt", "knit", "leather", "mesh", "suede", "wool"];
const KINDS: [&str; 14] = [
    "ankle boot",
    "ballerina",
    "boat shoe",
    "brogue",
    "clog",
    "derby",
    "espadrille",
    "hiking boot",
    "loafer",
    "moccasin",
    "running shoe",
    "sandal",
    "slipper",
    "sneaker",
];
const USES: [&str; 8] = [
    "city streets",
    "cold mornings",
    "days at sea",
    "evenings out",
    "long walks",
    "rainy weather",
    "the office",
    "the trail",
];

/// A shoe as it is first put on sale.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Shoe {
    pub(crate) sku: String,
    pub(crate) name: String,
    pub(crate) brand: &'static str,
    /// In cents.
    pub(crate) price: i64,
    pub(crate) description: String,
}

/// The shoe with this number.
pub(crate) fn shoe(number: u32) -> Shoe {
    let mut random = SplitMix(SEED.wrapping_add(u64::from(number) << 32));
    let brand = random.pick(&BRANDS);
    let colour = random.pick(&COLOURS);
    let material = random.pick(&MATERIALS);
    let kind = random.pick(&KINDS);
    let first_use = random.pick(&USES);
    Shoe {
        sku: format!("SHOE-{number:05}"),
        name: format!("{brand} {colour} {material} {kind}"),
        brand,
        // From 29.95 to 228.95, the way shops write prices.
        price: 2_995 + 100 * i64::from(random.below(200)),
        description: format!("A {kind} of {colour} {material}, made by {brand} for {first_use}."),
    }
}

/// What one piece of this SKU costs by the list, in cents; `None` when there is no such shoe.
pub(crate) fn list_price(sku: &str) -> Option<i64> {
    let number = sku.strip_prefix("SHOE-")?.parse().ok().filter(|number| (1..=COUNT).contains(number))?;
    let shoe = shoe(number);
    (shoe.sku == sku).then_some(shoe.price)
}

/// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014), written out
/// because the shoes must stay the same whatever becomes of a random number library.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`, by the high half of a product: the bias of 2⁻³² does not matter for shoes.
    fn below(&mut self, limit: u32) -> u32 {
        let high = (u128::from(self.next()) * u128::from(limit)) >> 64;
        u32::try_from(high).expect("the high half of u64 × u32 is below the u32")
    }

    fn pick(&mut self, words: &[&'static str]) -> &'static str {
        let count = u32::try_from(words.len()).expect("the word lists are short");
        words[self.below(count) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn only_shoes_have_a_list_price() {
        assert_eq!(list_price("SHOE-00001"), Some(shoe(1).price));
        assert_eq!(list_price("SHOE-10000"), Some(shoe(COUNT).price));
        for sku in ["SHOE-00000", "SHOE-10001", "SHOE-1", "SHOE-+0001", "BOOT-00001", ""] {
            assert_eq!(list_price(sku), None, "{sku:?}");
        }
    }

    #[test]
    fn skus_are_distinct() {
        let skus: HashSet<String> = (1..=COUNT).map(|number| shoe(number).sku).collect();
        assert_eq!(skus.len(), COUNT as usize);
    }

    /// Databases of different builds must hold the same shoes, so the whole catalogue is pinned by its FNV-1a
    /// hash, and the first shoe in words for whoever has to look.
    #[test]
    fn the_catalogue_never_changes() {
        let first = shoe(1);
        assert_eq!(first.sku, "SHOE-00001");
        let mut hash = 0xCBF2_9CE4_8422_2325_u64;
        for number in 1..=COUNT {
            for byte in format!("{:?}", shoe(number)).bytes() {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3);
            }
        }
        assert_eq!(
            (first.name.as_str(), first.price, hash),
            ("Granite crimson wool moccasin", 8_295, 0x6588E44A091CD662)
        );
    }

    #[test]
    fn prices_and_words_spread_over_their_whole_range() {
        let shoes: Vec<Shoe> = (1..=COUNT).map(shoe).collect();
        let brands: HashSet<&str> = shoes.iter().map(|shoe| shoe.brand).collect();
        assert_eq!(brands.len(), BRANDS.len());
        assert_eq!(shoes.iter().map(|shoe| shoe.price).min(), Some(2_995));
        assert_eq!(shoes.iter().map(|shoe| shoe.price).max(), Some(22_895));
    }
}
