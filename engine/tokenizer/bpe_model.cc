#include "engine/tokenizer/bpe_model.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/tokenizer/byte_alphabet.h"
#include "engine/tokenizer/utf8.h"

namespace kascade::bpe {
namespace {

// Parses a merge, which files spell as "a b" or as ["a", "b"].
std::optional<std::pair<std::string, std::string>> merge_parts(const Json& merge) {
  if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
    return std::pair{merge[0].get<std::string>(), merge[1].get<std::string>()};
  }
  if (!merge.is_string()) return std::nullopt;
  const auto& text = merge.get_ref<const std::string&>();
  const size_t space = text.find(' ');
  if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) {
    return std::nullopt;
  }
  return std::pair{text.substr(0, space), text.substr(space + 1)};
}

absl::StatusOr<int32_t> rank_of(const Json& rank, size_t index) {
  constexpr int32_t kMaxRank = std::numeric_limits<int32_t>::max();
  if (is_natural(rank) && rank.get<uint64_t>() <= kMaxRank) return rank.get<int32_t>();
  return malformed(absl::StrCat("model.merge_ranks[", index, "]"), rank,
                   absl::StrCat("an integer in [0, ", kMaxRank, "]"));
}

// Refuses options that would change how merging works.
void refuse_variants(ObjectReader& reader) {
  // Older files have no type; the presence of merges implies BPE.
  const std::string type = reader.optional_text("type").value_or("BPE");
  if (type != "BPE") reader.fail(unsupported(reader.path_of("type"), type, "BPE"));
  const Json* dropout = reader.find("dropout");
  if (dropout && !(dropout->is_number() && dropout->get<double>() == 0.0)) {
    reader.fail(unsupported(reader.path_of("dropout"), *dropout, "null or 0"));
  }
  for (const char* name : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    const std::string affix = reader.optional_text(name).value_or("");
    if (!affix.empty()) reader.fail(unsupported(reader.path_of(name), affix, "null or \"\""));
  }
}

}  // namespace

absl::StatusOr<BpeModel> BpeModel::parse(const Json& json, const Vocabulary& vocabulary,
                                         bool byte_level) {
  ObjectReader reader(json, "model");
  refuse_variants(reader);
  BpeModel model;
  model.byte_level_ = byte_level;
  reader.fail(model.read_unknown(reader, vocabulary));
  const bool byte_fallback = reader.boolean("byte_fallback", false);
  const bool ignore_merges = reader.boolean("ignore_merges", false);
  reader.object("vocab");
  const Json& merges = reader.array("merges");
  const Json* ranks = reader.find("merge_ranks") ? &reader.array("merge_ranks") : nullptr;
  const absl::Status fields = reader.finish();
  if (!fields.ok()) return fields;
  if (byte_level && byte_fallback) {
    return unsupported("model.byte_fallback", true, "false with a ByteLevel pre_tokenizer");
  }
  model.index_symbols(vocabulary, byte_fallback);
  const absl::Status status = model.read_merges(merges, ranks, vocabulary);
  if (!status.ok()) return status;
  for (int32_t id = 0; ignore_merges && id < vocabulary.size(); ++id) {
    if (!vocabulary[id].present || vocabulary[id].special) continue;
    const std::string& text = vocabulary[id].text;
    const std::optional<std::string> bytes = byte_level ? spelled_bytes(text) : text;
    if (bytes) model.whole_pieces_.emplace(*bytes, id);
  }
  model.longest_token_ = model.find_longest_token(vocabulary);
  return model;
}

absl::Status BpeModel::read_unknown(ObjectReader& reader, const Vocabulary& vocabulary) {
  fuse_unknown_ = reader.boolean("fuse_unk", false);
  const std::optional<std::string> unknown = reader.optional_text("unk_token");
  if (!unknown) return absl::OkStatus();
  const std::optional<int32_t> id = vocabulary.find(*unknown);
  if (!id) return malformed(reader.path_of("unk_token"), *unknown, "a token of model.vocab");
  unknown_id_ = *id;
  return absl::OkStatus();
}

absl::Status BpeModel::read_merges(const Json& merges, const Json* ranks,
                                   const Vocabulary& vocabulary) {
  if (ranks && ranks->size() != merges.size()) {
    return malformed("model.merge_ranks", ranks->size(),
                     absl::StrCat(merges.size(), " ranks, one per merge"));
  }
  merges_.reserve(merges.size());
  // Seams pay off for long pieces only. A byte-level piece is usually one word, too short to be
  // worth cutting.
  seams_are_known_ = !byte_level_;
  const auto is_character = [&](int32_t id) {
    return id != unknown_id_ && std::ranges::find(fallback_ids_, id) == fallback_ids_.end();
  };
  for (size_t i = 0; i < merges.size(); ++i) {
    const auto path = [&] { return absl::StrCat("model.merges[", i, "]"); };
    const auto parts = merge_parts(merges[i]);
    if (!parts) return malformed(path(), merges[i], "\"a b\" or [\"a\", \"b\"]");
    const auto& [left, right] = *parts;
    const auto left_id = vocabulary.find(left);
    const auto right_id = vocabulary.find(right);
    const auto merged_id = vocabulary.find(left + right);
    if (!left_id || !right_id || !merged_id) {
      const std::string missing = !left_id ? left : !right_id ? right : left + right;
      return malformed(path(), missing, "a token of model.vocab");
    }
    const absl::StatusOr<int32_t> rank = ranks ? rank_of((*ranks)[i], i) : static_cast<int32_t>(i);
    if (!rank.ok()) return rank.status();
    if (vocabulary[*merged_id].special) continue;
    merges_.add(*left_id, *right_id, {*rank, *merged_id});
    seams_are_known_ = seams_are_known_ && is_character(*left_id) && is_character(*right_id);
    if (seams_are_known_) index_seam(left, right);
  }
  return absl::OkStatus();
}

int32_t BpeModel::find_character(std::string_view character) const {
  const auto found = characters_.find(code_point(character));
  return found == characters_.end() ? kNone : found->second;
}

void BpeModel::index_seam(std::string_view left, std::string_view right) {
  if (left.empty() || right.empty()) return;
  size_t last = left.size() - 1;
  while ((static_cast<uint8_t>(left[last]) & 0xC0) == 0x80) --last;
  merges_.add_seam(find_character(left.substr(last)),
                   find_character(right.substr(0, utf8_length(right[0]))));
}

void BpeModel::index_symbols(const Vocabulary& vocabulary, bool byte_fallback) {
  const auto plain_id = [&](const std::string& text) {
    const std::optional<int32_t> id = vocabulary.find(text);
    return id && !vocabulary[*id].special ? *id : kNone;
  };
  for (int byte = 0; byte < 256; ++byte) {
    byte_ids_[byte] = plain_id(spelling_of(static_cast<uint8_t>(byte)));
    fallback_ids_[byte] = byte_fallback ? plain_id(absl::StrFormat("<0x%02X>", byte)) : kNone;
  }
  for (int32_t id = 0; id < vocabulary.size(); ++id) {
    const VocabularyEntry& entry = vocabulary[id];
    if (!entry.present || entry.special || entry.text.empty()) continue;
    if (utf8_length(entry.text[0]) != entry.text.size()) continue;
    characters_.emplace(code_point(entry.text), id);
  }
}

absl::Status BpeModel::append_bytes(std::string_view piece, EncodingRun& run,
                                    std::vector<int32_t>& symbols) const {
  bool follows_unknown = false;
  for (const char c : piece) {
    if (absl::Status status = run.add_work(1); !status.ok()) return status;
    const int32_t id = byte_ids_[static_cast<uint8_t>(c)];
    const bool is_unknown = id == kNone;
    if (!is_unknown) {
      symbols.push_back(id);
    } else if (unknown_id_ != kNone && !(follows_unknown && fuse_unknown_)) {
      symbols.push_back(unknown_id_);
    }
    follows_unknown = is_unknown;
  }
  return absl::OkStatus();
}

bool BpeModel::append_fallback(std::string_view character, std::vector<int32_t>& symbols) const {
  for (const char c : character) {
    if (fallback_ids_[static_cast<uint8_t>(c)] == kNone) return false;
  }
  for (const char c : character) symbols.push_back(fallback_ids_[static_cast<uint8_t>(c)]);
  return true;
}

absl::Status BpeModel::append_symbols(std::string_view piece, EncodingRun& run,
                                      std::vector<int32_t>& symbols) const {
  bool follows_unknown = false;
  for (size_t i = 0; i < piece.size();) {
    if (absl::Status status = run.add_work(1); !status.ok()) return status;
    const std::string_view character = piece.substr(i, utf8_length(piece[i]));
    i += character.size();
    bool is_unknown = false;
    if (const int32_t id = find_character(character); id != kNone) {
      symbols.push_back(id);
    } else if (!append_fallback(character, symbols)) {
      is_unknown = true;
      if (unknown_id_ != kNone && !(follows_unknown && fuse_unknown_)) {
        symbols.push_back(unknown_id_);
      }
    }
    follows_unknown = is_unknown;
  }
  return absl::OkStatus();
}

absl::Status BpeModel::encode(std::string_view piece, Scratch& scratch, EncodingRun& run) const {
  if (!whole_pieces_.empty()) {
    if (const auto found = whole_pieces_.find(piece); found != whole_pieces_.end()) {
      run.ids.push_back(found->second);
      return run.add_work(1);
    }
  }
  absl::Status status = run.expect_text(piece.size(), longest_token_);
  // There are at most as many symbols as bytes.
  if (status.ok()) status = run.hold(EncodingRun::Use::kSymbols, piece.size() * sizeof(int32_t));
  if (!status.ok()) return status;
  scratch.symbols.clear();
  scratch.symbols.reserve(piece.size());
  status = byte_level_ ? append_bytes(piece, run, scratch.symbols)
                       : append_symbols(piece, run, scratch.symbols);
  if (!status.ok()) return status;
  return merge_symbols(scratch, run);
}

// Cuts the piece where no merge can join its parts. This keeps the merge loop's data in the CPU
// cache when a whole text is one piece.
absl::Status BpeModel::merge_symbols(Scratch& scratch, EncodingRun& run) const {
  const std::span<const int32_t> symbols = scratch.symbols;
  size_t begin = 0;
  for (size_t i = 1; seams_are_known_ && i < symbols.size(); ++i) {
    if (merges_.has_seam(symbols[i - 1], symbols[i])) continue;
    absl::Status status = scratch.merge.merge(merges_, symbols.subspan(begin, i - begin), run);
    if (!status.ok()) return status;
    begin = i;
  }
  return scratch.merge.merge(merges_, symbols.subspan(begin), run);
}

std::optional<size_t> BpeModel::find_longest_token(const Vocabulary& vocabulary) const {
  const auto& units = byte_level_ ? byte_ids_ : fallback_ids_;
  // UTF-8 has no byte above 0xF4, and neither 0xC0 nor 0xC1.
  bool all_known = true;
  for (int byte = 0; byte <= 0xF4; ++byte) {
    all_known = all_known && (units[byte] != kNone || byte == 0xC0 || byte == 0xC1);
  }
  if (!all_known && (unknown_id_ == kNone || fuse_unknown_)) return std::nullopt;
  size_t longest = 4;  // an unknown character
  for (int32_t id = 0; id < vocabulary.size(); ++id) {
    if (!vocabulary[id].present || vocabulary[id].special) continue;
    const std::string& text = vocabulary[id].text;
    const std::optional<std::string> bytes = byte_level_ ? spelled_bytes(text) : text;
    if (bytes) longest = std::max(longest, bytes->size());
  }
  return longest;
}

}  // namespace kascade::bpe
