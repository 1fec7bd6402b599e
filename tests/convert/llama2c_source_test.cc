// Tests checkpoints of llama2.c: every version against known values, the published model in its
// three versions, and each refusal.
#include <array>
#include <cmath>
#include <cstring>
#include <functional>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/shared_data.h"
#include "tests/support/tiny_model.h"
#include "tools/convert/llama2c_file.h"
#include "tools/convert/llama2c_tokenizer.h"
#include "tools/convert/source.h"

namespace kascade::convert {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::TempDir;
using testing::write_file;

struct Shape {
  int32_t dim = 8;
  int32_t hidden = 12;
  int32_t layers = 2;
  int32_t heads = 2;
  int32_t kv_heads = 1;
  int32_t vocab = 5;  // as in the header: negative for a separate head in version 0
  int32_t context = 3;
  bool shared = true;  // versions 1 and 2
  int32_t group = 4;   // version 2

  bool has_head(int version) const { return version == 0 ? vocab < 0 : !shared; }
};

template <typename T>
void append(std::string& bytes, T value) {
  bytes.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

// Element `index` of tensor `kind` in `layer`: told apart from every other, exact in f32.
float value_of(int kind, int layer, int index) {
  return static_cast<float>(kind * 4096 + layer * 1024 + index) / 8;
}
// Version 2: what an int8 and its group's scale make.
int8_t quantised(int kind, int layer, int index) {
  return static_cast<int8_t>((kind * 37 + layer * 11 + index * 5) % 255 - 127);
}
float scale(int kind, int layer, int group) {
  return static_cast<float>(1 + kind + layer + group) / 64;
}

enum { kEmbed, kAttNorm, kWq, kWk, kWv, kWo, kFfnNorm, kW1, kW2, kW3, kNorm, kFreqs, kCls };

class Writer {
 public:
  Writer(const Shape& shape, int version) : shape_(shape), version_(version) {}

  std::string file() {
    const int32_t sizes[] = {shape_.dim,      shape_.hidden, shape_.layers, shape_.heads,
                             shape_.kv_heads, shape_.vocab,  shape_.context};
    if (version_ > 0) {
      append(bytes_, uint32_t{0x616b3432});
      append(bytes_, version_);
    }
    for (const int32_t size : sizes) append(bytes_, size);
    if (version_ > 0) append(bytes_, static_cast<uint8_t>(shape_.shared));
    if (version_ == 2) append(bytes_, shape_.group);
    if (version_ > 0) bytes_.resize(256, '\0');
    const std::vector<int> first = {kEmbed,   kAttNorm, kWq, kWk, kWv,   kWo,
                                    kFfnNorm, kW1,      kW2, kW3, kNorm, kFreqs};
    const std::vector<int> later = {kAttNorm, kFfnNorm, kNorm, kEmbed, kWq, kWk,
                                    kWv,      kWo,      kW1,   kW2,    kW3};
    for (const int kind : version_ == 0 ? first : later) add(kind);
    if (shape_.has_head(version_)) add(kCls);
    return bytes_;
  }

 private:
  int elements(int kind) const {
    const int head_dim = shape_.dim / shape_.heads;
    switch (kind) {
      case kEmbed:
      case kCls:
        return std::abs(shape_.vocab) * shape_.dim;
      case kWq:
      case kWo:
        return shape_.dim * shape_.dim;
      case kWk:
      case kWv:
        return shape_.kv_heads * head_dim * shape_.dim;
      case kW1:
      case kW2:
      case kW3:
        return shape_.hidden * shape_.dim;
      case kFreqs:
        return shape_.context * head_dim;
      default:
        return shape_.dim;
    }
  }
  void add(int kind) {
    const bool is_single = kind == kEmbed || kind == kNorm || kind == kFreqs || kind == kCls;
    const bool is_norm = kind == kAttNorm || kind == kFfnNorm || kind == kNorm;
    for (int layer = 0; layer < (is_single ? 1 : shape_.layers); ++layer) {
      const bool is_int8 = version_ == 2 && !is_norm;
      for (int i = 0; i < elements(kind); ++i) {
        if (is_int8) {
          append(bytes_, quantised(kind, layer, i));
        } else {
          append(bytes_, value_of(kind, layer, i));
        }
      }
      if (!is_int8) continue;
      for (int i = 0; i < elements(kind) / shape_.group; ++i) append(bytes_, scale(kind, layer, i));
    }
  }

  Shape shape_;
  int version_;
  std::string bytes_;
};

std::string write(const Shape& shape, int version) { return Writer(shape, version).file(); }

absl::StatusOr<Llama2cFile> parse(const std::string& bytes) {
  return Llama2cFile::parse(std::as_bytes(std::span(bytes)), "x.bin");
}
std::string error_of(const std::string& bytes) {
  const auto result = parse(bytes);
  return result.ok() ? "accepted" : result.status().ToString();
}

std::vector<float> floats(const std::vector<std::byte>& bytes) {
  std::vector<float> values(bytes.size() / 4);
  std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}
std::vector<float> read(const Llama2cFile& file, const std::string& name) {
  for (size_t i = 0; i < file.tensors().size(); ++i) {
    if (file.tensors()[i].name != name) continue;
    std::vector<std::byte> bytes(static_cast<size_t>(file.tensors()[i].bytes()));
    file.read(i, bytes);
    return floats(bytes);
  }
  ADD_FAILURE() << "no tensor " << name;
  return {};
}

// What the tensor must hold: rows 0..rows of `kind` in the given order.
std::vector<float> expected(const std::vector<int>& rows, int cols, int kind, int layer,
                            int version, const Shape& shape) {
  std::vector<float> values;
  for (const int row : rows) {
    for (int i = row * cols; i < (row + 1) * cols; ++i) {
      const bool is_norm = kind == kAttNorm || kind == kFfnNorm || kind == kNorm;
      values.push_back(version == 2 && !is_norm
                           ? scale(kind, layer, i / shape.group) * quantised(kind, layer, i)
                           : value_of(kind, layer, i));
    }
  }
  return values;
}

class Llama2cVersions : public ::testing::TestWithParam<int> {};

TEST_P(Llama2cVersions, GivesEveryTensorItsValues) {
  Shape shape{.vocab = GetParam() == 0 ? -5 : 5, .shared = false};
  const std::string bytes = write(shape, GetParam());
  const auto file = parse(bytes);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->version(), GetParam());
  const std::vector<int> one = {0};
  // Two heads of four rows, neighbouring pairs (0 1) (2 3): the first of each pair, the second.
  const std::vector<int> q_rows = {0, 2, 1, 3, 4, 6, 5, 7};
  const std::vector<int> k_rows = {0, 2, 1, 3};
  const std::vector<int> straight = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};
  const auto first = [&](size_t n) { return std::vector(straight.begin(), straight.begin() + n); };
  const auto check = [&](const std::string& name, const std::vector<int>& rows, int cols, int kind,
                         int layer) {
    EXPECT_EQ(read(*file, name), expected(rows, cols, kind, layer, GetParam(), shape)) << name;
  };
  check("model.embed_tokens.weight", first(5), 8, kEmbed, 0);
  for (int layer = 0; layer < 2; ++layer) {
    const std::string prefix = absl::StrCat("model.layers.", layer, ".");
    check(prefix + "input_layernorm.weight", one, 8, kAttNorm, layer);
    check(prefix + "self_attn.q_proj.weight", q_rows, 8, kWq, layer);
    check(prefix + "self_attn.k_proj.weight", k_rows, 8, kWk, layer);
    check(prefix + "self_attn.v_proj.weight", first(4), 8, kWv, layer);
    check(prefix + "self_attn.o_proj.weight", first(8), 8, kWo, layer);
    check(prefix + "post_attention_layernorm.weight", one, 8, kFfnNorm, layer);
    check(prefix + "mlp.gate_proj.weight", first(12), 8, kW1, layer);
    check(prefix + "mlp.down_proj.weight", first(8), 12, kW2, layer);
    check(prefix + "mlp.up_proj.weight", first(12), 8, kW3, layer);
  }
  check("model.norm.weight", one, 8, kNorm, 0);
  check("lm_head.weight", first(5), 8, kCls, 0);
  EXPECT_EQ(file->tensors().size(), 1u + 2 * 9 + 2);
}

TEST_P(Llama2cVersions, ReadsTheConfiguration) {
  const std::string bytes = write({}, GetParam());
  const auto file = parse(bytes);
  ASSERT_TRUE(file.ok()) << file.status();
  const ModelConfig& config = file->config();
  EXPECT_EQ(config.hidden, 8);
  EXPECT_EQ(config.intermediate, 12);
  EXPECT_EQ(config.layers, 2);
  EXPECT_EQ(config.heads, 2);
  EXPECT_EQ(config.kv_heads, 1);
  EXPECT_EQ(config.head_dim, 4);
  EXPECT_EQ(config.vocab, 5);
  EXPECT_EQ(config.context, 3);
  EXPECT_EQ(config.norm_eps, 1e-5);
  EXPECT_EQ(config.rope_theta, 10000);
  EXPECT_TRUE(config.tied_head);
  EXPECT_EQ(config.bos_token, 1);
  EXPECT_THAT(config.eos_tokens, ElementsAre(2));
  EXPECT_EQ(file->tensors().size(), 1u + 2 * 9 + 1);  // a tied head is not listed
}

TEST_P(Llama2cVersions, RefusesAnyOtherLength) {
  const std::string bytes = write({}, GetParam());
  for (size_t length = 0; length < bytes.size(); ++length) {
    ASSERT_THAT(error_of(bytes.substr(0, length)), HasSubstr("INVALID_ARGUMENT: x.bin: expected "));
  }
  EXPECT_THAT(error_of(bytes + '\0'),
              HasSubstr(absl::StrCat("expected ", bytes.size(),
                                     " bytes for the sizes in the "
                                     "header of llama2.c's version ",
                                     GetParam(), ", found ", bytes.size() + 1)));
}

INSTANTIATE_TEST_SUITE_P(All, Llama2cVersions, ::testing::Values(0, 1, 2));

TEST(Llama2cFile, GroupsMayCrossRows) {
  const Shape shape{.group = 24};  // w2 has rows of 12, the others of 8
  const std::string bytes = write({.dim = 24, .hidden = 12, .heads = 2, .group = 24}, 2);
  const auto file = parse(bytes);
  ASSERT_TRUE(file.ok()) << file.status();
  std::vector<int> rows(24);
  for (int i = 0; i < 24; ++i) rows[static_cast<size_t>(i)] = i;
  EXPECT_EQ(read(*file, "model.layers.1.mlp.down_proj.weight"),
            expected(rows, 12, kW2, 1, 2, shape));
}

TEST(Llama2cFile, RefusesSizesThatMakeNoSense) {
  const auto refused = [](const std::function<void(Shape&)>& change) {
    Shape shape;
    const std::string body = write(shape, 0).substr(28);
    change(shape);
    std::string bytes;
    for (const int32_t size : {shape.dim, shape.hidden, shape.layers, shape.heads, shape.kv_heads,
                               shape.vocab, shape.context}) {
      append(bytes, size);
    }
    return error_of(bytes + body);
  };
  EXPECT_THAT(refused([](Shape& s) { s.dim = 0; }), HasSubstr("dim: expected 1..262144, found 0"));
  EXPECT_THAT(refused([](Shape& s) { s.dim = 9; }),
              HasSubstr("dim: expected a multiple of 2 heads, found 9"));
  EXPECT_THAT(refused([](Shape& s) { s.dim = 6; }), HasSubstr("dim / n_heads: expected an even"));
  EXPECT_THAT(refused([](Shape& s) { s.hidden = -1; }), HasSubstr("hidden_dim: expected 1.."));
  EXPECT_THAT(refused([](Shape& s) { s.layers = 1 << 30; }),
              HasSubstr("n_layers: expected 1..1024, found 1073741824"));
  EXPECT_THAT(refused([](Shape& s) { s.heads = 0; }), HasSubstr("n_heads: expected 1.."));
  EXPECT_THAT(refused([](Shape& s) { s.kv_heads = 3; }),
              HasSubstr("n_kv_heads: expected a divisor of 2 heads, found 3"));
  EXPECT_THAT(refused([](Shape& s) { s.vocab = INT32_MIN; }),
              HasSubstr("vocab_size: expected 1..16777216, found 2147483648"));
  EXPECT_THAT(refused([](Shape& s) { s.vocab = 2; }),
              HasSubstr("vocab_size: expected more than 2, found 2"));
  EXPECT_THAT(refused([](Shape& s) { s.context = 0; }), HasSubstr("seq_len: expected 1.."));
}

TEST(Llama2cFile, RefusesWhatTheHeaderOfLaterVersionsCannotSay) {
  std::string bytes = write({}, 2);
  bytes[4] = 3;
  EXPECT_THAT(error_of(bytes), HasSubstr("UNIMPLEMENTED: x.bin: only versions 0, 1 and 2 of "
                                         "llama2.c's format are read, found 3"));
  bytes = write({}, 1);
  bytes[36] = 2;
  EXPECT_THAT(error_of(bytes), HasSubstr("shared_classifier: expected 0 or 1, found 2"));
  bytes = write({}, 2);
  std::memset(bytes.data() + 37, 0xff, 4);
  EXPECT_THAT(error_of(bytes), HasSubstr("group_size: expected at least 1, found -1"));
  EXPECT_THAT(error_of(write({.group = 3}, 2)),
              HasSubstr("group_size: expected a divisor of the 40 elements of "
                        "model.embed_tokens.weight, found 3"));
  bytes = write({}, 1);
  const int32_t negative = -5;
  std::memcpy(bytes.data() + 28, &negative, 4);
  EXPECT_THAT(error_of(bytes), HasSubstr("vocab_size: expected a positive number"));
}

// ---- The tokenizer beside it
// ---------------------------------------------------------------------

std::string tokenizer_bin(const std::vector<std::string>& texts) {
  std::string bytes;
  append(bytes, int32_t{7});
  for (size_t id = 0; id < texts.size(); ++id) {
    append(bytes, -static_cast<float>(id));
    append(bytes, static_cast<int32_t>(texts[id].size()));
    bytes += texts[id];
  }
  return bytes;
}
std::vector<std::string> llama_texts() {
  std::vector<std::string> texts = {"<unk>", "\n<s>\n", "\n</s>\n"};
  for (int byte = 0; byte < 256; ++byte) {
    std::array<char, 8> piece{};
    std::snprintf(piece.data(), piece.size(), "<0x%02X>", byte);
    texts.emplace_back(piece.data());
  }
  texts.insert(texts.end(), {" ", "a", "b", "a b "});
  return texts;
}

TEST(TokenizerBin, GetsTheOriginalPiecesBack) {
  const auto vocabulary = parse_tokenizer_bin(tokenizer_bin(llama_texts()), "t.bin");
  ASSERT_TRUE(vocabulary.ok()) << vocabulary.status();
  ASSERT_EQ(vocabulary->pieces.size(), 263u);
  const auto piece = [&](size_t id) { return vocabulary->pieces[id]; };
  EXPECT_EQ(piece(0).type, PieceType::kUnknown);
  EXPECT_EQ(piece(1).text, "<s>");
  EXPECT_EQ(piece(1).type, PieceType::kControl);
  EXPECT_EQ(piece(2).text, "</s>");
  EXPECT_EQ(piece(3).text, "<0x00>");
  EXPECT_EQ(piece(3).type, PieceType::kByte);
  EXPECT_EQ(piece(258).text, "<0xFF>");
  EXPECT_EQ(piece(259).text, "\u2581");
  EXPECT_EQ(piece(259).type, PieceType::kNormal);
  EXPECT_EQ(piece(262).text, "a\u2581b\u2581");
  EXPECT_EQ(piece(262).score, -262);
  EXPECT_EQ(vocabulary->bos, 1);
}

TEST(TokenizerBin, RefusesDamage) {
  const auto error = [](const std::string& bytes) {
    const auto result = parse_tokenizer_bin(bytes, "t.bin");
    return result.ok() ? "accepted" : result.status().ToString();
  };
  const std::string whole = tokenizer_bin(llama_texts());
  for (size_t length = 0; length < whole.size(); ++length) {
    const std::string cut = whole.substr(0, length);
    // A file may end after any piece but the first 259; what has other sizes is not chosen.
    const auto result = parse_tokenizer_bin(cut, "t.bin");
    if (result.ok()) {
      EXPECT_LT(result->pieces.size(), 263u);
    } else {
      EXPECT_THAT(error(cut), HasSubstr("t.bin: ")) << length;
    }
  }
  auto texts = llama_texts();
  texts[1] = "[BOS]";
  EXPECT_THAT(
      error(tokenizer_bin(texts)),
      HasSubstr(R"(token 1: expected "\n<s>\n" as in every Llama vocabulary, found "[BOS])"));
  texts = llama_texts();
  texts[3] = "a";
  EXPECT_THAT(error(tokenizer_bin(texts)), HasSubstr(R"(token 3: expected "<0x00>")"));
  std::string negative = whole;
  std::memset(negative.data() + 8, 0xff, 4);
  EXPECT_THAT(error(negative), HasSubstr("token 0 at byte 4: expected a score, a length and a text "
                                         "in the 3663 bytes left, found length -1"));
  EXPECT_THAT(error(tokenizer_bin({"<unk>"})), HasSubstr("expected at least 259 tokens, found 1"));
}

TEST(FindTokenizer, TakesTheOneThatFits) {
  TempDir folder;
  auto texts = llama_texts();
  write_file(folder / "tok263.bin", tokenizer_bin(texts));
  texts.emplace_back("c");
  write_file(folder / "tokenizer.bin", tokenizer_bin(texts));
  const auto own = find_llama2c_tokenizer(folder.path(), 263);
  ASSERT_TRUE(own.ok()) << own.status();
  EXPECT_EQ(own->file, folder / "tok263.bin");
  EXPECT_EQ(own->side_file.name, "tokenizer.json");
  EXPECT_THAT(own->side_file.content, HasSubstr("<0xFF>"));
  const auto general = find_llama2c_tokenizer(folder.path(), 264);
  ASSERT_TRUE(general.ok()) << general.status();
  EXPECT_EQ(general->file, folder / "tokenizer.bin");
  const auto none = find_llama2c_tokenizer(folder.path(), 300);
  EXPECT_THAT(
      none.status().ToString(),
      HasSubstr("expected a tokenizer of 300 pieces beside the checkpoint (tokenizer.model, "
                "tok300.model, tokenizer.bin or tok300.bin), found tokenizer.bin has 264 "
                "pieces"));
  TempDir empty;
  EXPECT_THAT(find_llama2c_tokenizer(empty.path(), 300).status().ToString(),
              HasSubstr("found none"));
}

TEST(FindTokenizer, ADamagedOneIsNamed) {
  TempDir folder;
  write_file(folder / "tokenizer.bin", "ab");
  EXPECT_THAT(find_llama2c_tokenizer(folder.path(), 300).status().ToString(),
              HasSubstr("tokenizer.bin: expected at least 4 bytes, found 2"));
}

// ---- The whole source
// ----------------------------------------------------------------------------

TEST(OpenLlama2c, PutsItTogether) {
  TempDir folder;
  write_file(folder / "tiny.bin", write({.vocab = 263}, 1));
  write_file(folder / "tokenizer.bin", tokenizer_bin(llama_texts()));
  const auto source = open_llama2c(folder / "tiny.bin", {});
  ASSERT_TRUE(source.ok()) << source.status();
  EXPECT_EQ((*source)->family(), "llama2.c version 1, f32");
  EXPECT_EQ((*source)->config().name, "tiny");
  EXPECT_FALSE((*source)->config().rope_scaling.has_value());
  EXPECT_THAT((*source)->inputs(), ElementsAre(folder / "tiny.bin", folder / "tokenizer.bin"));
  EXPECT_THAT((*source)->decisions(),
              ElementsAre("rope theta 10000, norm epsilon 1e-05, BOS 1 and EOS 2: llama2.c's own, "
                          "its files do not store them",
                          "tokenizer tokenizer.bin: it has the model's 263 pieces"));
  const auto stretched = open_llama2c(folder / "tiny.bin", {.rope_factor = 8});
  ASSERT_TRUE(stretched.ok()) << stretched.status();
  EXPECT_EQ(factor_of(*(*stretched)->config().rope_scaling), 8);
  EXPECT_FALSE(open_llama2c(folder / "tiny.bin", {.rope_factor = 0.5}).ok());
  EXPECT_TRUE(absl::IsNotFound(open_llama2c(folder / "absent.bin", {}).status()));
}

std::vector<float> read_all(Source& source, size_t index) {
  std::vector<std::byte> bytes(static_cast<size_t>(source.tensors()[index].bytes()));
  EXPECT_TRUE(source.read(index, bytes).ok());
  return floats(bytes);
}

TEST(OpenLlama2c, ThePublishedModelIsTheSameInEveryVersion) {
  KASCADE_NEEDS_DATA("models/stories260K");
  const auto folder = testing::shared_data() / "models/stories260K";
  const auto v0 = open_llama2c(folder / "stories260K.bin", {});
  const auto v1 = open_llama2c(folder / "stories260K-v1.bin", {});
  const auto v2 = open_llama2c(folder / "stories260K-q8.bin", {});
  ASSERT_TRUE(v0.ok()) << v0.status();
  ASSERT_TRUE(v1.ok()) << v1.status();
  ASSERT_TRUE(v2.ok()) << v2.status();
  EXPECT_EQ((*v0)->config().parameters(), 260032);
  ASSERT_EQ((*v0)->tensors().size(), 47u);
  for (size_t i = 0; i < 47; ++i) {
    const SourceTensor& tensor = (*v0)->tensors()[i];
    ASSERT_EQ((*v1)->tensors()[i].name, tensor.name);
    ASSERT_EQ((*v2)->tensors()[i].shape, tensor.shape);
    const auto exact = read_all(**v0, i);
    EXPECT_EQ(read_all(**v1, i), exact) << tensor.name;
    const auto rounded = read_all(**v2, i);
    float largest = 0;
    float error = 0;
    for (size_t j = 0; j < exact.size(); ++j) {
      largest = std::max(largest, std::abs(exact[j]));
      error = std::max(error, std::abs(exact[j] - rounded[j]));
    }
    // Half a step of the group with the largest element, at most; norms are exact.
    EXPECT_LE(error, tensor.shape.size() == 1 ? 0 : largest / 127 * 0.501f) << tensor.name;
  }
  EXPECT_EQ((*v0)->side_files()[0].name, "tokenizer.model");
  EXPECT_EQ((*v0)->side_files()[0].copy_of, folder / "tok512.model");
}

TEST(TokenizerBin, ThePublishedOneIsTheModelFile) {
  KASCADE_NEEDS_DATA("models/stories260K");
  const auto folder = testing::shared_data() / "models/stories260K";
  const auto bin = parse_tokenizer_bin(testing::read_file(folder / "tok512.bin"), "tok512.bin");
  const auto model = parse_sentencepiece(testing::read_file(folder / "tok512.model"));
  ASSERT_TRUE(bin.ok()) << bin.status();
  ASSERT_TRUE(model.ok()) << model.status();
  ASSERT_EQ(bin->pieces.size(), model->pieces.size());
  for (size_t id = 0; id < bin->pieces.size(); ++id) {
    EXPECT_EQ(bin->pieces[id].text, model->pieces[id].text) << id;
    EXPECT_EQ(bin->pieces[id].type, model->pieces[id].type) << id;
    EXPECT_EQ(bin->pieces[id].score, model->pieces[id].score) << id;
  }
  EXPECT_EQ(bin->add_bos, model->add_bos);
  EXPECT_EQ(bin->add_dummy_prefix, model->add_dummy_prefix);
}

}  // namespace
}  // namespace kascade::convert
