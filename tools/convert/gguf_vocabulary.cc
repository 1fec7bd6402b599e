#include "tools/convert/gguf_vocabulary.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/model/json.h"
#include "tools/convert/gguf_fields.h"

namespace kascade::convert {
namespace {

constexpr int64_t kMaxTokens = 1 << 20;
constexpr int64_t kMaxMerges = 1 << 22;

constexpr char kTokens[] = "tokenizer.ggml.tokens";
constexpr char kTypes[] = "tokenizer.ggml.token_type";
constexpr char kScores[] = "tokenizer.ggml.scores";
constexpr char kBos[] = "tokenizer.ggml.bos_token_id";

// Returns the type of token `id`. If `types` is null, all tokens are normal.
PieceType type_of(const GgufValue* types, size_t id, GgufFields& fields) {
  if (!types) return PieceType::kNormal;
  const auto type = types->integer(static_cast<int64_t>(id));
  if (type && *type >= 1 && *type <= 6) return static_cast<PieceType>(*type);
  fields.invalid(absl::StrCat(kTypes, "[", id, "]"), "a number in 1..6",
                 type ? absl::StrCat(*type) : "another type");
  return PieceType::kNormal;
}

std::optional<int32_t> read_bos(size_t tokens, GgufFields& fields) {
  const auto bos = fields.maybe_integer(kBos);
  if (!bos) return std::nullopt;
  if (*bos >= 0 && *bos < static_cast<int64_t>(tokens)) return static_cast<int32_t>(*bos);
  fields.invalid(kBos, absl::StrCat("an id below ", tokens), absl::StrCat(*bos));
  return std::nullopt;
}

// Whether BOS is added to a prompt: as the file says, or else the default of llama.cpp for this
// kind of tokenizer.
bool read_add_bos(const std::optional<int32_t>& bos, bool fallback, GgufFields& fields) {
  const bool add = fields.maybe_boolean("tokenizer.ggml.add_bos_token").value_or(fallback && bos);
  if (add && !bos) fields.missing(kBos);
  return add;
}

// The converter of llama.cpp gives every token of a tokenizer.json the same score, which loses the
// order of merges. The ids still contain it, because byte-pair training numbers tokens in the order
// of their merges.
void order_by_id_if_unscored(SentencePieceVocabulary& vocabulary) {
  const auto scored = [](const auto& piece) { return piece.type == PieceType::kNormal; };
  const auto first = std::find_if(vocabulary.pieces.begin(), vocabulary.pieces.end(), scored);
  for (const auto& piece : vocabulary.pieces) {
    if (scored(piece) && piece.score != first->score) return;
  }
  for (size_t id = 0; id < vocabulary.pieces.size(); ++id) {
    vocabulary.pieces[id].score = -static_cast<float>(id);
  }
}

// The same converter marks <unk> as a control token.
void mark_unknown(SentencePieceVocabulary& vocabulary, GgufFields& fields) {
  const auto id = fields.maybe_integer("tokenizer.ggml.unknown_token_id");
  if (!id || *id < 0 || *id >= static_cast<int64_t>(vocabulary.pieces.size())) return;
  for (const auto& piece : vocabulary.pieces) {
    if (piece.type == PieceType::kUnknown) return;
  }
  vocabulary.pieces[static_cast<size_t>(*id)].type = PieceType::kUnknown;
}

SentencePieceVocabulary read_sentencepiece(GgufFields& fields) {
  SentencePieceVocabulary vocabulary;
  const auto tokens = fields.texts(kTokens, kMaxTokens);
  const GgufValue* types = fields.maybe_array(kTypes, tokens.size());
  const GgufValue* scores = fields.maybe_array(kScores, tokens.size());
  if (!scores) fields.missing(kScores);
  vocabulary.bos = read_bos(tokens.size(), fields);
  vocabulary.add_bos = read_add_bos(vocabulary.bos, true, fields);
  vocabulary.add_dummy_prefix =
      fields.maybe_boolean("tokenizer.ggml.add_space_prefix").value_or(true);
  for (size_t id = 0; id < tokens.size() && fields.error().ok(); ++id) {
    const auto score = scores->number(static_cast<int64_t>(id));
    if (!score) fields.invalid(kScores, "an array of f32", "another type");
    vocabulary.pieces.push_back({std::string(tokens[id]), static_cast<float>(score.value_or(0)),
                                 type_of(types, id, fields)});
  }
  order_by_id_if_unscored(vocabulary);
  mark_unknown(vocabulary, fields);
  return vocabulary;
}

ByteLevelVocabulary read_byte_level(GgufFields& fields) {
  // With these pre-tokenizers, llama.cpp does not merge pieces that are tokens themselves, and adds
  // BOS; so do the tokenizer.json of their models.
  static const std::set<std::string> kFromTiktoken = {"llama-bpe", "llama3", "llama-v3", "tekken"};
  ByteLevelVocabulary vocabulary;
  const auto tokens = fields.texts(kTokens, kMaxTokens);
  const GgufValue* types = fields.maybe_array(kTypes, tokens.size());
  const auto merges = fields.texts("tokenizer.ggml.merges", kMaxMerges);
  vocabulary.pre_tokenizer = fields.text("tokenizer.ggml.pre");
  const bool from_tiktoken = kFromTiktoken.count(vocabulary.pre_tokenizer) > 0;
  vocabulary.ignore_merges = from_tiktoken;
  vocabulary.bos = read_bos(tokens.size(), fields);
  vocabulary.add_bos = read_add_bos(vocabulary.bos, from_tiktoken, fields);
  for (size_t id = 0; id < tokens.size() && fields.error().ok(); ++id) {
    vocabulary.tokens.push_back({std::string(tokens[id]), type_of(types, id, fields)});
  }
  vocabulary.merges.assign(merges.begin(), merges.end());
  return vocabulary;
}

// In Phi-3's tokenizer, tokens that mark turns consume the white space behind them. GGUF files do
// not say so; llama.cpp knows it by the name of the family, too.
std::string with_phi3_spaces(const std::string& tokenizer_json) {
  static const std::set<std::string> kOthers = {"<unk>", "<s>", "<|endoftext|>"};
  nlohmann::json json = nlohmann::json::parse(tokenizer_json);
  for (nlohmann::json& token : json["added_tokens"]) {
    token["rstrip"] = kOthers.count(token["content"].get<std::string>()) == 0;
  }
  return json.dump();
}

}  // namespace

absl::StatusOr<GgufVocabulary> gguf_vocabulary(const GgufFile& file) {
  GgufFields fields(file);
  GgufVocabulary vocabulary;
  const std::string model = fields.text("tokenizer.ggml.model");
  if (model == "llama") {
    vocabulary = read_sentencepiece(fields);
  } else if (model == "gpt2") {
    vocabulary = read_byte_level(fields);
  } else {
    fields.unsupported("tokenizer.ggml.model", "\"llama\" or \"gpt2\"", shown(model));
  }
  if (!fields.error().ok()) return fields.error();
  return vocabulary;
}

absl::StatusOr<std::string> gguf_tokenizer_json(const GgufFile& file) {
  const auto vocabulary = gguf_vocabulary(file);
  if (!vocabulary.ok()) return vocabulary.status();
  auto json = std::visit([](const auto& lists) { return to_tokenizer_json(lists); }, *vocabulary);
  if (json.ok()) {
    GgufFields fields(file);
    const bool is_phi3 = fields.maybe_text("general.architecture") == "phi3";
    const bool is_sentencepiece = std::holds_alternative<SentencePieceVocabulary>(*vocabulary);
    return is_phi3 && is_sentencepiece ? with_phi3_spaces(*json) : *std::move(json);
  }
  return absl::Status(json.status().code(),
                      absl::StrCat(file.name(), ": tokenizer.ggml: ", json.status().message()));
}

}  // namespace kascade::convert
