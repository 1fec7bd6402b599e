// Writes vocabulary files for tests, and implements SentencePiece and tiktoken in a few simple
// lines. The tokenizers made from such files must agree with these implementations.
#ifndef KASCADE_TESTS_SUPPORT_VOCABULARY_EXAMPLES_H_
#define KASCADE_TESTS_SUPPORT_VOCABULARY_EXAMPLES_H_

#include <bit>
#include <cstdint>
#include <cstdio>
#include <map>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "absl/strings/escaping.h"
#include "engine/tokenizer/utf8.h"
#include "engine/tokenizer/vocabulary_files.h"

namespace kascade::testing {

inline std::string varint(uint64_t value) {
  std::string bytes;
  for (; value >= 0x80; value >>= 7) bytes += static_cast<char>(0x80 | (value & 0x7F));
  return bytes + static_cast<char>(value);
}
inline std::string varint_field(int number, uint64_t value) {
  return varint(number << 3) + varint(value);
}
inline std::string bytes_field(int number, const std::string& bytes) {
  return varint(number << 3 | 2) + varint(bytes.size()) + bytes;
}
inline std::string float_field(int number, float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  std::string bytes = varint(number << 3 | 5);
  for (int i = 0; i < 4; ++i) bytes += static_cast<char>(bits >> (8 * i) & 0xFF);
  return bytes;
}

// Returns a `tokenizer.model` in SentencePiece's format.
inline std::string sentencepiece_file(const SentencePieceVocabulary& vocabulary) {
  std::string file;
  for (const auto& [text, score, type] : vocabulary.pieces) {
    std::string piece = bytes_field(1, text) + float_field(2, score);
    if (type != PieceType::kNormal) piece += varint_field(3, static_cast<uint64_t>(type));
    file += bytes_field(1, piece);
  }
  file += bytes_field(2, varint_field(3, 2));
  return file + bytes_field(3, bytes_field(1, "identity") + bytes_field(2, "") +
                                   varint_field(3, vocabulary.add_dummy_prefix) +
                                   varint_field(4, vocabulary.remove_extra_whitespaces) +
                                   varint_field(5, vocabulary.escape_whitespaces));
}

inline std::string tiktoken_file(const TiktokenVocabulary& vocabulary) {
  std::string file;
  for (size_t rank = 0; rank < vocabulary.tokens.size(); ++rank) {
    file += absl::Base64Escape(vocabulary.tokens[rank]) + " " + std::to_string(rank) + "\n";
  }
  return file;
}

// Returns the start of Llama 2's vocabulary: <unk>, <s>, </s> and, if requested, the byte pieces.
inline SentencePieceVocabulary sentencepiece_start(bool with_bytes) {
  SentencePieceVocabulary vocabulary;
  vocabulary.pieces = {{"<unk>", 0, PieceType::kUnknown},
                       {"<s>", 0, PieceType::kControl},
                       {"</s>", 0, PieceType::kControl}};
  vocabulary.bos = 1;
  for (int byte = 0; with_bytes && byte < 256; ++byte) {
    char text[8];
    std::snprintf(text, sizeof(text), "<0x%02X>", byte);
    vocabulary.pieces.push_back({text, 0, PieceType::kByte});
  }
  return vocabulary;
}

inline std::vector<std::string> characters_of(std::string_view text) {
  std::vector<std::string> characters;
  for (size_t i = 0; i < text.size(); i += bpe::utf8_length(text[i])) {
    characters.emplace_back(text.substr(i, bpe::utf8_length(text[i])));
  }
  return characters;
}

// Merges the two neighbours whose joined text has the best value, leftmost first, until no joined
// text has a value.
template <typename Value>
void merge_plainly(std::vector<std::string>& symbols, const std::map<std::string, Value>& values) {
  while (true) {
    size_t best = symbols.size();
    for (size_t i = 0; i + 1 < symbols.size(); ++i) {
      const auto found = values.find(symbols[i] + symbols[i + 1]);
      if (found == values.end()) continue;
      if (best == symbols.size() || found->second > values.at(symbols[best] + symbols[best + 1])) {
        best = i;
      }
    }
    if (best == symbols.size()) return;
    symbols[best] += symbols[best + 1];
    symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(best) + 1);
  }
}

// SentencePiece's BPE for a model with the identity normalizer.
class PlainSentencePiece {
 public:
  explicit PlainSentencePiece(const SentencePieceVocabulary& vocabulary) : options_(vocabulary) {
    for (size_t id = 0; id < vocabulary.pieces.size(); ++id) {
      const auto& [text, score, type] = vocabulary.pieces[id];
      if (type == PieceType::kUnknown) unknown_ = static_cast<int32_t>(id);
      if (type == PieceType::kByte) bytes_.push_back(static_cast<int32_t>(id));
      if (type != PieceType::kNormal) continue;
      scores_[text] = score;
      ids_[text] = static_cast<int32_t>(id);
    }
  }

  std::vector<int32_t> encode(const std::string& text) const {
    std::vector<std::string> symbols = characters_of(normalised(text));
    merge_plainly(symbols, scores_);
    std::vector<int32_t> ids;
    bool follows_unknown = false;
    for (const std::string& symbol : symbols) {
      const auto found = ids_.find(symbol);
      const bool is_unknown = found == ids_.end();
      if (!is_unknown) {
        ids.push_back(found->second);
      } else if (!bytes_.empty()) {
        for (const char c : symbol) ids.push_back(bytes_[static_cast<uint8_t>(c)]);
      } else if (!follows_unknown) {
        ids.push_back(unknown_);
      }
      follows_unknown = is_unknown;
    }
    return ids;
  }

 private:
  std::string normalised(const std::string& text) const {
    std::string result;
    bool skip_space = options_.remove_extra_whitespaces;
    for (const char c : text) {
      if (c == ' ' && skip_space) continue;
      if (result.empty() && options_.add_dummy_prefix) result = space();
      result += c == ' ' ? space() : std::string(1, c);
      skip_space = options_.remove_extra_whitespaces && c == ' ';
    }
    while (options_.remove_extra_whitespaces && result.ends_with(space())) {
      result.resize(result.size() - space().size());
    }
    return result;
  }

  std::string space() const { return options_.escape_whitespaces ? "\u2581" : " "; }

  SentencePieceVocabulary options_;
  std::map<std::string, float> scores_{};
  std::map<std::string, int32_t> ids_{};
  std::vector<int32_t> bytes_{};
  int32_t unknown_ = -1;
};

// tiktoken's BPE for one pre-tokenized piece.
class PlainTiktoken {
 public:
  explicit PlainTiktoken(const TiktokenVocabulary& vocabulary) {
    for (size_t rank = 0; rank < vocabulary.tokens.size(); ++rank) {
      // The lowest rank is the best value.
      values_[vocabulary.tokens[rank]] = -static_cast<int32_t>(rank);
    }
  }

  void encode(std::string_view piece, std::vector<int32_t>& ids) const {
    std::vector<std::string> symbols;
    if (values_.contains(std::string(piece))) {
      symbols.emplace_back(piece);
    } else {
      for (const char c : piece) symbols.emplace_back(1, c);
      merge_plainly(symbols, values_);
    }
    for (const std::string& symbol : symbols) ids.push_back(-values_.at(symbol));
  }

 private:
  std::map<std::string, int32_t> values_{};
};

inline std::string random_word(std::mt19937& random, const std::vector<std::string>& alphabet,
                               size_t max_length) {
  std::string word;
  for (size_t length = random() % (max_length + 1); length > 0; --length) {
    word += alphabet[random() % alphabet.size()];
  }
  return word;
}

}  // namespace kascade::testing

#endif  // KASCADE_TESTS_SUPPORT_VOCABULARY_EXAMPLES_H_
