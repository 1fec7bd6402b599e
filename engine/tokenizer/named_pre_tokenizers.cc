#include "engine/tokenizer/named_pre_tokenizers.h"

#include <algorithm>
#include <initializer_list>
#include <string_view>
#include <utility>

#include "engine/tokenizer/vocabulary_json.h"
#include "engine/tokenizer/word_patterns.h"

namespace kascade::bpe {
namespace {

constexpr const char* kLineBreak = "[\r\n]";
// Letters of the scripts that have capitals.
constexpr const char* kDeepSeekLetters =
    "\\s?[A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293"
    "\u0295-\u02af\u0370-\u0373\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c"
    "\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f\u0531-\u0556\u10a0-\u10c5"
    "\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77"
    "\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b"
    "\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3"
    "\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115"
    "\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149"
    "\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d"
    "\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06"
    "\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3"
    "\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df"
    "\U0001e900-\U0001e943]+";
constexpr const char* kDeepSeekSigns =
    "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+";
constexpr const char* kDeepSeekWideCharacters = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+";

constexpr const char* kDeepSeekV3Kanji = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+";
constexpr const char* kDeepSeekV3Pattern =
    R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|)"
    R"( ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

// What llama.cpp applies to models whose pre-tokenizer it does not know by name.
constexpr const char* kDefaultSigns = R"([\p{P}\$\+<=>\^~\|]+)";

constexpr const char* kNames =
    "llama-bpe, llama3, llama-v3, gpt-2, smollm, starcoder, refact, qwen2, deepseek-r1-qwen, "
    "tekken, deepseek-llm, deepseek-coder, deepseek-v3, default";

Json digits_json() { return {{"type", "Digits"}, {"individual_digits", true}}; }

Json split_json(const char* regex) {
  Json json = {{"type", "Split"}, {"behavior", "Isolated"}, {"invert", false}};
  json["pattern"]["Regex"] = regex;
  return json;
}

Json sequence_json(Json::array_t steps) {
  return {{"type", "Sequence"}, {"pretokenizers", std::move(steps)}};
}

// Splits by each pattern in turn, and then takes the bytes.
Json splits_json(std::initializer_list<const char*> patterns) {
  Json::array_t steps;
  for (const char* pattern : patterns) steps.push_back(split_json(pattern));
  steps.push_back(byte_level_json(false));
  return sequence_json(std::move(steps));
}

bool is_one_of(std::string_view name, std::initializer_list<std::string_view> names) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

// The pre-tokenizer of DeepSeek LLM and DeepSeek Coder.
Json deepseek_llm_json(const char* letters, const char* signs, bool trailing_spaces) {
  Json::array_t steps = {split_json(kLineBreak), split_json(letters), split_json(signs)};
  if (trailing_spaces) steps.push_back(split_json("\\s+$"));
  steps.push_back(split_json(kDeepSeekWideCharacters));
  steps.push_back(digits_json());
  steps.push_back(byte_level_json(false));
  return sequence_json(std::move(steps));
}

}  // namespace

absl::StatusOr<NamedPreTokenizer> named_pre_tokenizer(const std::string& name) {
  NamedPreTokenizer named;
  if (is_one_of(name, {"llama-bpe", "llama3", "llama-v3"})) {
    named.pre_tokenizer = llama3_pre_tokenizer_json();
  } else if (name == "gpt-2") {
    named.pre_tokenizer = byte_level_json(true);
  } else if (is_one_of(name, {"smollm", "starcoder", "refact"})) {
    named.pre_tokenizer = sequence_json({digits_json(), byte_level_json(true)});
  } else if (is_one_of(name, {"qwen2", "deepseek-r1-qwen"})) {
    named.normalizer = {{"type", "NFC"}};
    named.pre_tokenizer = splits_json({kQwen2Pattern});
  } else if (name == "tekken") {
    named.pre_tokenizer = splits_json({kTekkenPattern});
  } else if (name == "deepseek-llm") {
    named.pre_tokenizer = deepseek_llm_json(kDeepSeekLetters, kDeepSeekSigns, true);
  } else if (name == "deepseek-coder") {
    named.pre_tokenizer = deepseek_llm_json("\\s?\\p{L}+", "\\s?\\p{P}+", false);
  } else if (name == "deepseek-v3") {
    named.pre_tokenizer = splits_json({"\\p{N}{1,3}", kDeepSeekV3Kanji, kDeepSeekV3Pattern});
  } else if (name == "default") {
    named.pre_tokenizer = splits_json({kDefaultSigns, kGpt2Pattern, "\\p{N}+", "[0-9][0-9][0-9]"});
  } else {
    return unsupported("pre_tokenizer", name, kNames);
  }
  return named;
}

}  // namespace kascade::bpe
