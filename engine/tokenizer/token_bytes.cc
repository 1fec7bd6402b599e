#include "engine/tokenizer/token_bytes.h"

#include <charconv>
#include <optional>

#include "absl/strings/str_cat.h"
#include "engine/tokenizer/byte_alphabet.h"
#include "engine/tokenizer/normalizer.h"
#include "engine/tokenizer/pre_tokenizer.h"

namespace kascade::bpe {
namespace {

// Returns the byte that a token like "<0x0A>" stands for (10).
std::optional<char> fallback_byte(const std::string& text) {
  if (text.size() != 6 || !text.starts_with("<0x") || text.back() != '>') return std::nullopt;
  uint8_t byte = 0;
  const char* end = text.data() + 5;
  const auto result = std::from_chars(text.data() + 3, end, byte, 16);
  if (result.ec != std::errc() || result.ptr != end) return std::nullopt;
  return static_cast<char>(byte);
}

}  // namespace

absl::StatusOr<TokenDecoder> TokenDecoder::parse(const Json* json, bool byte_level) {
  const std::string supported = byte_level
                                    ? "ByteLevel with a ByteLevel pre_tokenizer"
                                    : "Sequence or Metaspace without a ByteLevel pre_tokenizer";
  if (!json) return unsupported("decoder", nullptr, supported);
  ObjectReader reader(*json, "decoder");
  TokenDecoder decoder;
  decoder.byte_level_ = byte_level;
  const std::string type = reader.text("type");
  if (byte_level && type == "ByteLevel") {
    // These fields concern encoding only.
    for (const char* name : {"add_prefix_space", "trim_offsets", "use_regex"}) reader.ignore(name);
  } else if (!byte_level && type == "Metaspace") {
    reader.fail(decoder.read_metaspace(reader));
  } else if (!byte_level && type == "Sequence") {
    reader.fail(decoder.read_sequence(reader));
  } else {
    reader.fail(unsupported("decoder.type", type, supported));
  }
  const absl::Status status = reader.finish();
  if (!status.ok()) return status;
  return decoder;
}

absl::Status TokenDecoder::read_metaspace(ObjectReader& reader) {
  steps_.push_back({read_replacement(reader), " "});
  strips_leading_space_ = read_prepend_scheme(reader) != PrependScheme::kNever;
  reader.ignore("split");
  return reader.status();
}

absl::Status TokenDecoder::read_sequence(ObjectReader& reader) {
  const Json& parts = reader.array("decoders");
  bool fused = false;
  for (size_t i = 0; i < parts.size() && reader.status().ok(); ++i) {
    ObjectReader part(parts[i], reader.path_of(absl::StrCat("decoders[", i, "]")));
    read_part(part, fused);
    reader.fail(part.finish());
  }
  return reader.status();
}

// Replace and ByteFallback act on single tokens and Strip acts on the fused text, so their order
// matters; other orders are refused.
void TokenDecoder::read_part(ObjectReader& reader, bool& fused) {
  const std::string type = reader.text("type");
  if (type == "Replace" && !fused) {
    ObjectReader pattern(reader.object("pattern"), reader.path_of("pattern"));
    const std::string from = pattern.text("String");
    reader.fail(pattern.finish());
    if (from.empty()) reader.fail(malformed(reader.path_of("pattern.String"), "", "some text"));
    steps_.push_back({from, reader.text("content")});
  } else if (type == "ByteFallback" && !fused) {
    steps_.push_back({"", ""});
  } else if (type == "Fuse") {
    fused = true;
  } else if (type == "Strip" && fused && !strips_leading_space_) {
    const std::string content = reader.text("content");
    if (content != " ") reader.fail(unsupported(reader.path_of("content"), content, "\" \""));
    strips_leading_space_ = reader.integer("start", 2) == 1;
    reader.integer("stop", 1);
  } else {
    reader.fail(unsupported(reader.path_of("type"), type,
                            "Replace and ByteFallback, then Fuse, then one Strip"));
  }
}

std::string TokenDecoder::bytes_of(const VocabularyEntry& entry) const {
  if (byte_level_) {
    // Added tokens are matched in the text itself, so their spelling does not use the byte
    // alphabet.
    if (entry.added) return entry.text;
    return spelled_bytes(entry.text).value_or(entry.text);
  }
  std::string text = entry.text;
  for (const Step& step : steps_) {
    if (!step.from.empty()) {
      replace_all(text, step.from, step.to);
    } else if (const std::optional<char> byte = fallback_byte(text)) {
      return {*byte};
    }
  }
  return text;
}

}  // namespace kascade::bpe
