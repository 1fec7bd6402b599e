#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/tokenizer/merge_list.h"
#include "engine/tokenizer/utf8.h"
#include "engine/tokenizer/vocabulary.h"
#include "engine/tokenizer/vocabulary_json.h"

namespace kascade::bpe {
namespace {

using Piece = SentencePieceVocabulary::Piece;

constexpr std::string_view kSpace = "\u2581";
// Regular expressions for a run of spaces, and for spaces at either end. The first is applied
// first, so the second sees at most one space at each end.
constexpr const char* kSpaceRun = " {2,}";
constexpr const char* kFirstSpace = "(?<!.|\\n) ";
constexpr const char* kLastSpace = " (?!.|\\n)";
constexpr const char* kLastEscapedSpaces = "(?<!\u2581)(?>\u2581+)(?!.|\\n)";

std::string path_of(size_t id) { return absl::StrCat("pieces[", id, "]"); }

bool is_found_as_a_whole(const Piece& piece) {
  return piece.type == PieceType::kUserDefined && piece.text.find(kSpace) == std::string::npos;
}

bool is_made_by_merging(const Piece& piece) {
  return piece.type == PieceType::kNormal ||
         (piece.type == PieceType::kUserDefined && !is_found_as_a_whole(piece));
}

absl::Status check_piece(const Piece& piece, size_t id) {
  if (piece.text.empty() || piece.text.size() > kMaxTokenBytes) {
    return absl::InvalidArgumentError(absl::StrCat(path_of(id), ": ", piece.text.size(),
                                                   " bytes, expected 1 to ", kMaxTokenBytes));
  }
  if (valid_utf8_length(piece.text) < piece.text.size()) {
    return absl::InvalidArgumentError(absl::StrCat(path_of(id), ": is not UTF-8"));
  }
  if (!std::isfinite(piece.score)) {
    return absl::InvalidArgumentError(
        absl::StrCat(path_of(id), ".score: ", piece.score, ", expected a finite number"));
  }
  return absl::OkStatus();
}

// Checks that there is at most one unknown piece, and that there are either no byte pieces or all
// 256.
absl::Status check_types(const SentencePieceVocabulary& vocabulary) {
  size_t unknown = 0;
  std::array<bool, 256> has_byte{};
  for (size_t id = 0; id < vocabulary.pieces.size(); ++id) {
    const Piece& piece = vocabulary.pieces[id];
    unknown += piece.type == PieceType::kUnknown;
    if (piece.type != PieceType::kByte) continue;
    int byte = 0;
    while (byte < 256 && piece.text != absl::StrFormat("<0x%02X>", byte)) ++byte;
    if (byte == 256) {
      return malformed(path_of(id), piece.text, "\"<0x00>\" to \"<0xFF>\" for a byte piece");
    }
    has_byte[byte] = true;
  }
  if (unknown > 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("pieces: ", unknown, " of type unknown, expected at most 1"));
  }
  const auto bytes = std::ranges::count(has_byte, true);
  if (bytes != 0 && bytes != 256) {
    return absl::InvalidArgumentError(
        absl::StrCat("pieces: ", bytes, " byte pieces, expected none or 256"));
  }
  return absl::OkStatus();
}

absl::Status check(const SentencePieceVocabulary& vocabulary) {
  const size_t size = vocabulary.pieces.size();
  if (size == 0 || size > Vocabulary::kMaxIds) {
    return absl::InvalidArgumentError(
        absl::StrCat("pieces: found ", size, ", expected 1 to ", Vocabulary::kMaxIds));
  }
  absl::flat_hash_set<std::string_view> texts;
  texts.reserve(size);
  for (size_t id = 0; id < size; ++id) {
    const Piece& piece = vocabulary.pieces[id];
    const absl::Status status = check_piece(piece, id);
    if (!status.ok()) return status;
    if (!texts.insert(piece.text).second) {
      return malformed(path_of(id), piece.text, "a text that no other piece has");
    }
  }
  if (vocabulary.bos && (*vocabulary.bos < 0 || static_cast<size_t>(*vocabulary.bos) >= size)) {
    return absl::InvalidArgumentError(
        absl::StrCat("bos: ", *vocabulary.bos, ", expected an id in [0, ", size, ")"));
  }
  return check_types(vocabulary);
}

// SentencePiece merges by text alone: it also merges characters that are no pieces themselves, and
// splits an unused piece again at the end. The merge loop of this tokenizer knows only tokens.
absl::Status refuse_unreachable(const SentencePieceVocabulary& vocabulary) {
  absl::flat_hash_set<std::string_view> texts;
  for (const Piece& piece : vocabulary.pieces) {
    if (is_made_by_merging(piece)) texts.insert(piece.text);
  }
  for (size_t id = 0; id < vocabulary.pieces.size(); ++id) {
    const Piece& piece = vocabulary.pieces[id];
    const std::string_view text = piece.text;
    const bool unused = piece.type == PieceType::kUnused;
    if (!unused && !is_made_by_merging(piece)) continue;
    for (size_t i = 0; i < text.size(); i += utf8_length(text[i])) {
      const std::string_view character = text.substr(i, utf8_length(text[i]));
      if (!unused && character.size() < text.size() && !texts.contains(character)) {
        return unsupported(path_of(id), piece.text, "pieces whose characters are pieces");
      }
      if (unused && i > 0 && texts.contains(text.substr(0, i)) && texts.contains(text.substr(i))) {
        return unsupported(path_of(id), piece.text, "unused pieces that no two others make");
      }
    }
  }
  return absl::OkStatus();
}

// Pieces of equal score have equal rank.
std::vector<MergeResult> ranked(const SentencePieceVocabulary& vocabulary) {
  std::vector<const Piece*> pieces;
  for (const Piece& piece : vocabulary.pieces) {
    if (is_made_by_merging(piece)) pieces.push_back(&piece);
  }
  std::ranges::sort(pieces, [](const Piece* a, const Piece* b) {
    return a->score != b->score ? a->score > b->score : a < b;
  });
  std::vector<MergeResult> results;
  int32_t rank = 0;
  for (size_t i = 0; i < pieces.size(); ++i) {
    if (i > 0 && pieces[i]->score != pieces[i - 1]->score) ++rank;
    results.push_back({pieces[i]->text, rank});
  }
  return results;
}

Json replace_json(const char* kind, std::string_view from, std::string_view to) {
  Json json = {{"type", "Replace"}, {"content", std::string(to)}};
  json["pattern"][kind] = std::string(from);
  return json;
}

Json normalizer_json(const SentencePieceVocabulary& vocabulary) {
  Json::array_t steps;
  if (vocabulary.remove_extra_whitespaces) {
    steps.push_back(replace_json("Regex", kSpaceRun, " "));
    steps.push_back(replace_json("Regex", kFirstSpace, ""));
    steps.push_back(replace_json("Regex", kLastSpace, ""));
  }
  if (vocabulary.add_dummy_prefix) steps.push_back({{"type", "Prepend"}, {"prepend", " "}});
  if (vocabulary.escape_whitespaces) steps.push_back(replace_json("String", " ", kSpace));
  if (vocabulary.escape_whitespaces && vocabulary.remove_extra_whitespaces) {
    steps.push_back(replace_json("Regex", kLastEscapedSpaces, ""));
  }
  if (steps.empty()) return nullptr;
  return {{"type", "Sequence"}, {"normalizers", std::move(steps)}};
}

Json decoder_json(const SentencePieceVocabulary& vocabulary) {
  Json::array_t steps = {
      replace_json("String", kSpace, " "), {{"type", "ByteFallback"}}, {{"type", "Fuse"}}};
  if (vocabulary.add_dummy_prefix || vocabulary.remove_extra_whitespaces) {
    steps.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  }
  return {{"type", "Sequence"}, {"decoders", std::move(steps)}};
}

}  // namespace

absl::StatusOr<Json> tokenizer_json_of(const SentencePieceVocabulary& vocabulary) {
  absl::Status status = check(vocabulary);
  if (status.ok()) status = refuse_unreachable(vocabulary);
  if (!status.ok()) return status;

  Json json = {{"version", "1.0"}, {"added_tokens", Json::array()}, {"pre_tokenizer", nullptr}};
  Json model = {{"type", "BPE"}, {"unk_token", nullptr}, {"fuse_unk", true}};
  model["byte_fallback"] = false;
  Json::object_t vocab;
  for (size_t i = 0; i < vocabulary.pieces.size(); ++i) {
    const auto& [text, score, type] = vocabulary.pieces[i];
    const auto id = static_cast<int32_t>(i);
    vocab.emplace(text, id);
    const bool special = type == PieceType::kControl || type == PieceType::kUnknown;
    if (special || is_found_as_a_whole(vocabulary.pieces[i])) {
      json["added_tokens"].push_back(added_token_json(id, text, special));
    }
    if (type == PieceType::kUnknown) model["unk_token"] = text;
    if (type == PieceType::kByte) model["byte_fallback"] = true;
  }
  model["vocab"] = std::move(vocab);
  status = list_merges(ranked(vocabulary), model);
  if (!status.ok()) return status;
  json["model"] = std::move(model);
  json["normalizer"] = normalizer_json(vocabulary);
  json["decoder"] = decoder_json(vocabulary);
  const bool has_prefix = vocabulary.bos && vocabulary.add_bos;
  json["post_processor"] =
      has_prefix ? prefix_template_json(vocabulary.pieces[*vocabulary.bos].text, *vocabulary.bos)
                 : Json();
  return json;
}

}  // namespace kascade::bpe
