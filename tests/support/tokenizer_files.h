// Contents of tokenizer.json for tests: those of the test data, and those that are built from the
// raw vocabularies of the test data.
#ifndef KASCADE_TESTS_SUPPORT_TOKENIZER_FILES_H_
#define KASCADE_TESTS_SUPPORT_TOKENIZER_FILES_H_

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <memory>
#include <sstream>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "engine/tokenizer/tokenizer.h"
#include "engine/tokenizer/utf8.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/support/shared_data.h"

namespace kascade::testing {

using Json = nlohmann::json;

constexpr const char* kLlama3Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

inline std::unique_ptr<Tokenizer> parse_or_fail(const Json& json) {
  auto tokenizer = parse_tokenizer_json(json.dump());
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return tokenizer.ok() ? *std::move(tokenizer) : nullptr;
}

inline Json added_token(int id, const std::string& content, bool special = true) {
  return {{"id", id},        {"content", content}, {"special", special},  {"normalized", false},
          {"lstrip", false}, {"rstrip", false},    {"single_word", false}};
}

inline Json template_with_prefix(const std::string& token, int id) {
  Json json = {{"type", "TemplateProcessing"}, {"pair", Json::array()}};
  json["single"] = {{{"SpecialToken", {{"id", token}, {"type_id", 0}}}},
                    {{"Sequence", {{"id", "A"}, {"type_id", 0}}}}};
  json["special_tokens"][token] = {{"id", token}, {"ids", {id}}, {"tokens", {token}}};
  return json;
}

inline Json merge_lines(const std::filesystem::path& path) {
  Json merges = Json::array();
  std::istringstream lines(read_file(path));
  for (std::string line; std::getline(lines, line);) {
    if (!line.empty() && !line.starts_with("#version")) merges.push_back(line);
  }
  return merges;
}

inline Json byte_level(bool use_regex) {
  return {{"type", "ByteLevel"},
          {"add_prefix_space", false},
          {"trim_offsets", true},
          {"use_regex", use_regex}};
}

inline Json gpt2_json() {
  const auto folder = shared_data() / "tokenizers/gpt2";
  Json json = {{"version", "1.0"}, {"normalizer", nullptr}};
  json["model"] = {{"type", "BPE"},
                   {"vocab", Json::parse(read_file(folder / "gpt2_vocab.json"))},
                   {"merges", merge_lines(folder / "gpt2_merges.txt")}};
  json["added_tokens"] = Json::array({added_token(50256, "<|endoftext|>")});
  json["pre_tokenizer"] = byte_level(true);
  json["decoder"] = byte_level(true);
  return json;
}

inline Json llama3_json() {
  const auto folder = shared_data() / "tokenizers/llama3";
  Json json = {{"version", "1.0"}, {"normalizer", nullptr}};
  json["model"] = {{"type", "BPE"},
                   {"ignore_merges", true},
                   {"vocab", Json::parse(read_file(folder / "llama3.2-encoder.json"))},
                   {"merges", merge_lines(folder / "llama3.2-vocab.bpe")}};
  json["added_tokens"] = {added_token(128000, "<|begin_of_text|>"),
                          added_token(128001, "<|end_of_text|>")};
  for (int id = 128002; id < 128256; ++id) {
    const std::string number = std::to_string(id - 128002);
    json["added_tokens"].push_back(added_token(id, "<|reserved_special_token_" + number + "|>"));
  }
  json["pre_tokenizer"] = {{"type", "Sequence"}};
  json["pre_tokenizer"]["pretokenizers"] = {{{"type", "Split"},
                                             {"pattern", {{"Regex", kLlama3Pattern}}},
                                             {"behavior", "Isolated"},
                                             {"invert", false}},
                                            byte_level(false)};
  json["post_processor"] = {{"type", "Sequence"}};
  json["post_processor"]["processors"] = {byte_level(true),
                                          template_with_prefix("<|begin_of_text|>", 128000)};
  json["decoder"] = byte_level(true);
  return json;
}

struct Piece {
  std::string text;
  float score;
};

// Reads llama2.c's format: the length of the longest piece as int32, then for each piece its score
// as float, its length as int32 and its bytes.
inline std::vector<Piece> read_pieces(const std::filesystem::path& path) {
  const std::string data = read_file(path);
  std::vector<Piece> pieces;
  for (size_t i = 4; i + 8 <= data.size();) {
    float score;
    int32_t length;
    std::memcpy(&score, &data[i], 4);
    std::memcpy(&length, &data[i + 4], 4);
    pieces.push_back({data.substr(i + 8, length), score});
    i += 8 + length;
  }
  return pieces;
}

inline std::string with_spaces_spelled(const std::string& text) {
  std::string result;
  for (const char c : text) result += c == ' ' ? std::string("\u2581") : std::string(1, c);
  return result;
}

// Returns every split of a piece into two other pieces, best score first, like the conversion of a
// SentencePiece model to tokenizer.json.
inline Json merges_of(const std::vector<Piece>& pieces, const Json& vocab) {
  using Merge = std::tuple<float, size_t, size_t, std::string, std::string>;
  std::vector<Merge> merges;
  for (const auto& [text, score] : pieces) {
    for (size_t cut = 1; cut < text.size(); ++cut) {
      const bool is_border = (static_cast<unsigned char>(text[cut]) & 0xC0) != 0x80;
      const std::string left = text.substr(0, cut), right = text.substr(cut);
      if (is_border && vocab.contains(left) && vocab.contains(right)) {
        merges.emplace_back(score, left.size(), right.size(), left, right);
      }
    }
  }
  std::stable_sort(merges.begin(), merges.end(), [](const Merge& a, const Merge& b) {
    return std::tie(std::get<0>(a), std::get<1>(a), std::get<2>(a)) >
           std::tie(std::get<0>(b), std::get<1>(b), std::get<2>(b));
  });
  Json json = Json::array();
  for (const auto& merge : merges) json.push_back({std::get<3>(merge), std::get<4>(merge)});
  return json;
}

inline Json replace_step(const std::string& from, const std::string& to) {
  return {{"type", "Replace"}, {"pattern", {{"String", from}}}, {"content", to}};
}

inline Json llama2_json() {
  std::vector<Piece> pieces = read_pieces(shared_data() / "tokenizers/llama2/tokenizer.bin");
  pieces[1].text = "<s>";  // the file has line feeds around them
  pieces[2].text = "</s>";
  Json vocab;
  for (size_t id = 0; id < pieces.size(); ++id) {
    pieces[id].text = with_spaces_spelled(pieces[id].text);
    vocab[pieces[id].text] = id;
  }
  Json json = {{"version", "1.0"}};
  json["added_tokens"] = {added_token(0, "<unk>"), added_token(1, "<s>"), added_token(2, "</s>")};
  json["normalizer"] = {{"type", "Sequence"}};
  json["normalizer"]["normalizers"] = {{{"type", "Prepend"}, {"prepend", "\u2581"}},
                                       replace_step(" ", "\u2581")};
  json["pre_tokenizer"] = nullptr;
  json["post_processor"] = template_with_prefix("<s>", 1);
  json["decoder"] = {{"type", "Sequence"}};
  json["decoder"]["decoders"] = {replace_step("\u2581", " "),
                                 {{"type", "ByteFallback"}},
                                 {{"type", "Fuse"}},
                                 {{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}}};
  json["model"] = {{"type", "BPE"},         {"unk_token", "<unk>"},
                   {"byte_fallback", true}, {"fuse_unk", true},
                   {"vocab", vocab},        {"merges", merges_of(pieces, vocab)}};
  return json;
}

// Makes a vocabulary of the characters of `alphabet` as tokens 0, 1, …, followed by `more`.
inline Json small_json(std::string_view alphabet, const std::vector<std::string>& more) {
  Json json = {{"added_tokens", Json::array()}, {"decoder", {{"type", "Metaspace"}}}};
  json["decoder"]["replacement"] = "_";
  json["decoder"]["prepend_scheme"] = "never";
  json["model"] = {{"type", "BPE"}, {"vocab", Json::object()}, {"merges", Json::array()}};
  Json& vocab = json["model"]["vocab"];
  for (const char c : alphabet) vocab[std::string(1, c)] = vocab.size();
  for (const std::string& text : more) vocab[text] = vocab.size();
  return json;
}

inline Json json_of(const std::filesystem::path& folder) {
  return Json::parse(read_file(folder / "tokenizer.json"));
}

}  // namespace kascade::testing

#endif  // KASCADE_TESTS_SUPPORT_TOKENIZER_FILES_H_
