// Trains a byte-level BPE tokenizer on books and writes its merges and the encoded books.
//
// Usage: bpe VOCABULARY_SIZE OUTPUT_FOLDER FILE...
// Words are split as GPT-2 splits them; no merge ever contains a digit, so each digit stays one
// token. Ids: 0 is <|endoftext|>, 1 to 256 the bytes in GPT-2's order, then the merges. Writes
// merges.bin (pairs of uint16) and corpus.bin (uint16; every book begins with 0).

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <iterator>
#include <queue>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

namespace {

using Id = uint16_t;
constexpr int kFirstMerge = 257;

enum class Kind { kSpace, kLetter, kNumber, kOther };

struct Character {
  int code;
  size_t bytes;
};

Character first_character(std::string_view text) {
  const auto lead = static_cast<unsigned char>(text[0]);
  if (lead < 0x80) {
    return {lead, 1};
  }
  const size_t more = lead >= 0xF0 ? 3 : lead >= 0xE0 ? 2 : 1;
  int code = lead & (0x3F >> more);
  size_t bytes = 1;
  for (; bytes <= more && bytes < text.size(); ++bytes) {
    code = code << 6 | (static_cast<unsigned char>(text[bytes]) & 0x3F);
  }
  return {code, bytes};
}

bool within(int code, int low, int high) { return code >= low && code <= high; }

// The classes of GPT-2's pattern, for the scripts that English books contain.
Kind kind_of(int code) {
  if (within(code, 9, 13) || code == ' ' || code == 0x85 || code == 0xA0 ||
      within(code, 0x2000, 0x200A) || code == 0x2028 || code == 0x2029 || code == 0x202F ||
      code == 0x3000) {
    return Kind::kSpace;
  }
  if (within(code, '0', '9') || code == 0xB2 || code == 0xB3 || code == 0xB9 ||
      within(code, 0xBC, 0xBE) || code == 0x2070 || within(code, 0x2074, 0x2079) ||
      within(code, 0x2150, 0x2189)) {
    return Kind::kNumber;
  }
  const bool latin = within(code, 0xC0, 0x2AF) && code != 0xD7 && code != 0xF7;
  const bool greek_or_cyrillic = within(code, 0x370, 0x52F) && code != 0x37E && code != 0x387;
  if (within(code, 'a', 'z') || within(code, 'A', 'Z') || code == 0xAA || code == 0xB5 ||
      code == 0xBA || latin || greek_or_cyrillic || within(code, 0x5D0, 0x5EA) ||
      within(code, 0x1E00, 0x1FFF)) {
    return Kind::kLetter;
  }
  return Kind::kOther;
}

// Bytes of the run of characters of one kind that `text` begins with.
size_t run_length(std::string_view text, Kind kind) {
  size_t at = 0;
  while (at < text.size()) {
    const Character character = first_character(text.substr(at));
    if (kind_of(character.code) != kind) {
      break;
    }
    at += character.bytes;
  }
  return at;
}

// Bytes of the first word by GPT-2's pattern: a contraction; letters, digits or signs with at most
// one space before them; or space, of which the last character is left to a word that follows.
size_t word_length(std::string_view text) {
  for (const std::string_view contraction : {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"}) {
    if (text.starts_with(contraction)) {
      return contraction.size();
    }
  }
  const size_t lead = text[0] == ' ' && text.size() > 1 ? 1 : 0;
  const Kind kind = kind_of(first_character(text.substr(lead)).code);
  if (kind != Kind::kSpace) {
    return lead + run_length(text.substr(lead), kind);
  }
  const size_t space = run_length(text, Kind::kSpace);
  if (space == text.size()) {
    return space;
  }
  size_t last = 0;
  for (size_t at = 0; at < space; at += first_character(text.substr(at)).bytes) {
    last = at;
  }
  return last > 0 ? last : space;
}

std::array<int, 256> byte_order() {
  std::array<int, 256> order{};
  size_t count = 0;
  const auto printable = [](int b) {
    return within(b, 33, 126) || within(b, 161, 172) || b >= 174;
  };
  for (const bool wanted : {true, false}) {
    for (int b = 0; b < 256; ++b) {
      if (printable(b) == wanted) {
        order[count++] = b;
      }
    }
  }
  return order;
}

struct Word {
  std::vector<Id> ids;
  int64_t count = 0;
  bool mergeable = true;
};

// The distinct words of the books, and the books as sequences of them.
struct Books {
  std::vector<Word> words;
  std::vector<std::vector<uint32_t>> sequences;
};

Books read_books(int count, char** paths) {
  std::array<Id, 256> id_of_byte{};
  const std::array<int, 256> order = byte_order();
  for (size_t i = 0; i < order.size(); ++i) {
    id_of_byte[order[i]] = static_cast<Id>(i + 1);
  }
  Books books;
  std::unordered_map<std::string, uint32_t> index;
  for (int i = 0; i < count; ++i) {
    std::ifstream file(paths[i], std::ios::binary);
    if (!file) {
      std::cerr << "bpe: cannot read " << paths[i] << "\n";
      std::exit(1);
    }
    const std::string text((std::istreambuf_iterator<char>(file)), {});
    std::vector<uint32_t>& sequence = books.sequences.emplace_back();
    for (std::string_view rest = text; !rest.empty();) {
      const std::string word(rest.substr(0, word_length(rest)));
      rest.remove_prefix(word.size());
      const auto [found, added] = index.emplace(word, books.words.size());
      if (added) {
        Word& fresh = books.words.emplace_back();
        for (const char c : word) {
          fresh.ids.push_back(id_of_byte[static_cast<unsigned char>(c)]);
          fresh.mergeable = fresh.mergeable && !within(c, '0', '9');
        }
      }
      ++books.words[found->second].count;
      sequence.push_back(found->second);
    }
  }
  return books;
}

// Counts of neighbouring ids, the words in which each pair occurs, and a heap of candidates.
class Pairs {
 public:
  explicit Pairs(std::vector<Word>& words) : words_(words) {
    for (uint32_t w = 0; w < words_.size(); ++w) {
      if (words_[w].mergeable) {
        add(w, 1);
      }
    }
    for (const auto& [pair, count] : counts_) {
      heap_.emplace(count, ~pair);
    }
  }

  // Takes the most frequent pair (of equals, the smallest) and replaces it by `merged` in all
  // words. Returns false if no pair is left.
  bool merge_best(Id merged, std::array<Id, 2>& best) {
    while (!heap_.empty() && counts_[~heap_.top().second] != heap_.top().first) {
      heap_.pop();
    }
    if (heap_.empty() || heap_.top().first <= 0) {
      return false;
    }
    const uint32_t pair = ~heap_.top().second;
    best = {static_cast<Id>(pair >> 16), static_cast<Id>(pair & 0xFFFF)};
    changed_.clear();
    const std::unordered_set<uint32_t> words = std::move(places_[pair]);
    for (const uint32_t w : words) {
      add(w, -1);
      replace(words_[w].ids, best, merged);
      add(w, 1);
    }
    for (const uint32_t touched : changed_) {
      heap_.emplace(counts_[touched], ~touched);
    }
    return true;
  }

 private:
  void add(uint32_t w, int sign) {
    const Word& word = words_[w];
    for (size_t j = 0; j + 1 < word.ids.size(); ++j) {
      const uint32_t pair = static_cast<uint32_t>(word.ids[j]) << 16 | word.ids[j + 1];
      counts_[pair] += sign * word.count;
      changed_.insert(pair);
      if (sign > 0) {
        places_[pair].insert(w);
      }
    }
  }

  static void replace(std::vector<Id>& ids, const std::array<Id, 2>& pair, Id merged) {
    size_t kept = 0;
    for (size_t j = 0; j < ids.size(); ++kept) {
      const bool here = j + 1 < ids.size() && ids[j] == pair[0] && ids[j + 1] == pair[1];
      ids[kept] = here ? merged : ids[j];
      j += here ? 2 : 1;
    }
    ids.resize(kept);
  }

  std::vector<Word>& words_;
  std::unordered_map<uint32_t, int64_t> counts_;
  std::unordered_map<uint32_t, std::unordered_set<uint32_t>> places_;
  std::unordered_set<uint32_t> changed_;
  // Entries whose count is no longer the pair's are skipped. ~pair: the smallest pair comes first.
  std::priority_queue<std::pair<int64_t, uint32_t>> heap_;
};

template <typename T>
void write(std::ofstream& file, const T* values, size_t count) {
  file.write(reinterpret_cast<const char*>(values),
             static_cast<std::streamsize>(count * sizeof(T)));
}

}  // namespace

int main(int argc, char** argv) {
  const int size = argc > 3 ? std::atoi(argv[1]) : 0;
  if (size < kFirstMerge || size > 65536) {
    std::cerr << "usage: bpe VOCABULARY_SIZE OUTPUT_FOLDER FILE... (size from " << kFirstMerge
              << " to 65536)\n";
    return 2;
  }
  Books books = read_books(argc - 3, argv + 3);
  const std::string folder = argv[2];
  std::ofstream merges(folder + "/merges.bin", std::ios::binary);
  Pairs pairs(books.words);
  std::array<Id, 2> best{};
  for (int merged = kFirstMerge; merged < size; ++merged) {
    if (!pairs.merge_best(static_cast<Id>(merged), best)) {
      std::cerr << "bpe: the books have pairs for " << merged << " ids only\n";
      return 1;
    }
    write(merges, best.data(), best.size());
  }
  std::ofstream corpus(folder + "/corpus.bin", std::ios::binary);
  size_t total = 0;
  for (const std::vector<uint32_t>& sequence : books.sequences) {
    std::vector<Id> ids = {0};
    for (const uint32_t word : sequence) {
      ids.insert(ids.end(), books.words[word].ids.begin(), books.words[word].ids.end());
    }
    write(corpus, ids.data(), ids.size());
    total += ids.size();
  }
  std::cerr << "bpe: " << books.words.size() << " distinct words, " << total << " tokens\n";
  return merges.flush() && corpus.flush() ? 0 : 1;
}
