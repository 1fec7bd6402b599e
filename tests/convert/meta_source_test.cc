// Tests Meta's checkpoints: the tensors that are read must equal those of the Hugging Face folder
// of the same model.
#include <cstring>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/meta_folder.h"
#include "tools/convert/meta_params.h"
#include "tools/convert/source.h"

namespace kascade::convert {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::meta_params;
using testing::MetaFolder;
using testing::RawTensor;
using testing::TempDir;
using testing::TinyModel;
using testing::write_meta_folder;

std::string error_of(const std::filesystem::path& folder, const SourceOptions& options = {}) {
  const auto source = open_meta(folder, options);
  return source.ok() ? "accepted" : source.status().ToString();
}
std::string error_of(const MetaFolder& folder) {
  TempDir dir;
  return error_of(write_meta_folder({}, folder, dir.path()));
}

// A folder whose first shard was changed by `edit`.
std::string error_of_edit(const std::function<void(std::vector<RawTensor>&)>& edit) {
  return error_of({.edit = [&](int, std::vector<RawTensor>& tensors) { edit(tensors); }});
}

std::string read_all(Source& source, size_t index) {
  std::string bytes(static_cast<size_t>(source.tensors()[index].bytes()), '\0');
  const auto status = source.read(index, std::as_writable_bytes(std::span(bytes)));
  EXPECT_TRUE(status.ok()) << status;
  return bytes;
}

// `source` gives exactly the tensors of the Hugging Face folder of `model`.
void expect_model(Source& source, const TinyModel& model) {
  std::vector<RawTensor> expected = testing::tiny_tensors(model);
  ASSERT_EQ(source.tensors().size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    const SourceTensor& tensor = source.tensors()[i];
    const auto same = [&](const RawTensor& other) { return other.name == tensor.name; };
    const auto found = std::find_if(expected.begin(), expected.end(), same);
    ASSERT_NE(found, expected.end()) << tensor.name;
    EXPECT_EQ(tensor.shape, found->shape) << tensor.name;
    EXPECT_EQ(tensor.dtype, model.dtype) << tensor.name;
    EXPECT_TRUE(read_all(source, i) == found->bytes) << tensor.name << " has other bytes";
  }
  EXPECT_EQ(source.config().tied_head, model.tied);
  EXPECT_EQ(source.config().vocab, model.vocab);
  EXPECT_EQ(source.config().intermediate, model.intermediate);
}

void expect_model(const std::filesystem::path& folder, const TinyModel& model) {
  const auto source = open_meta(folder, {});
  ASSERT_TRUE(source.ok()) << source.status();
  expect_model(**source, model);
}

TEST(MetaSource, OneFile) {
  for (const DType dtype : {DType::kBF16, DType::kF16, DType::kF32}) {
    TempDir dir;
    const TinyModel model = {.dtype = dtype};
    expect_model(write_meta_folder(model, {}, dir.path()), model);
  }
}

TEST(MetaSource, ShardsAreJoined) {
  for (const bool by_columns : {false, true}) {
    TempDir dir;
    const TinyModel model = {.dtype = DType::kBF16};
    const MetaFolder folder = {.shards = 2, .embedding_by_columns = by_columns};
    const auto source = open_meta(write_meta_folder(model, folder, dir.path()), {});
    ASSERT_TRUE(source.ok()) << source.status();
    EXPECT_EQ((*source)->family(), "Meta (2 model-parallel shards)");
    EXPECT_EQ((*source)->inputs().size(), 3u);
    expect_model(**source, model);
  }
}

TEST(MetaSource, ManyHeadsInGroups) {
  TempDir dir;
  const TinyModel model = {.heads = 8, .kv_heads = 1, .head_dim = 4};
  expect_model(write_meta_folder(model, {}, dir.path()), model);
  TempDir without;  // n_kv_heads is absent where every head has keys of its own
  const TinyModel full = {.heads = 4, .kv_heads = 4};
  json params = meta_params(full);
  params.erase("n_kv_heads");
  expect_model(write_meta_folder(full, {.params = params}, without.path()), full);
}

TEST(MetaSource, TransposedAndWideFiles) {
  TempDir dir;
  expect_model(write_meta_folder(
                   {}, {.form = {.byteorder = "little", .transposed = true, .zip = {.wide = true}}},
                   dir.path()),
               {});
}

TEST(MetaSource, VocabularyFromTheEmbedding) {
  for (const int shards : {1, 2}) {
    for (const bool by_columns : {false, true}) {
      TempDir dir;
      json params = meta_params({});
      params["vocab_size"] = -1;
      const MetaFolder folder = {
          .shards = shards, .embedding_by_columns = by_columns, .params = params};
      expect_model(write_meta_folder({}, folder, dir.path()), {});
    }
  }
  json params = meta_params({});
  params.erase("vocab_size");
  EXPECT_EQ(error_of({.params = params}), "accepted");
  params["vocab_size"] = 265;
  EXPECT_THAT(error_of({.params = params}),
              AllOf(HasSubstr("tok_embeddings.weight"), HasSubstr("[265, 32]"),
                    HasSubstr("found [264, 32]")));
}

TEST(MetaSource, WrappedParams) {
  EXPECT_EQ(error_of({.params = {{"model", meta_params({})}}}), "accepted");
}

std::vector<std::string> decisions_of(const std::filesystem::path& folder) {
  const auto source = open_meta(folder, {});
  EXPECT_TRUE(source.ok()) << source.status();
  return source.ok() ? (*source)->decisions() : std::vector<std::string>();
}

TEST(MetaSource, Head) {
  TempDir own, equal, shared, missing, sharded;
  const TinyModel untied;
  EXPECT_THAT(decisions_of(write_meta_folder(untied, {}, own.path())),
              Contains("own head: output.weight differs from the embedding"));
  const TinyModel both = {.tied = true, .table = testing::TinyTable::kBoth};
  const TinyModel tied = {.tied = true};
  const auto same = "tied head: output.weight is the embedding bit by bit";
  EXPECT_THAT(decisions_of(write_meta_folder(both, {}, equal.path())), Contains(same));
  expect_model(equal.path(), tied);
  const MetaFolder sharing = {.form = {.shared = {{"output.weight", "tok_embeddings.weight"}}}};
  EXPECT_THAT(decisions_of(write_meta_folder(both, sharing, shared.path())), Contains(same));
  expect_model(shared.path(), tied);
  EXPECT_THAT(decisions_of(write_meta_folder(tied, {}, missing.path())),
              Contains("tied head: there is no output.weight"));
  expect_model(missing.path(), tied);
  // Divided otherwise than the embedding.
  const MetaFolder two = {.shards = 2, .embedding_by_columns = true};
  expect_model(write_meta_folder(both, two, sharded.path()), tied);
}

TEST(MetaSource, ShardsThatAreMissingOrTwice) {
  TempDir dir;
  write_meta_folder({}, {.shards = 2}, dir.path());
  std::filesystem::rename(dir / "consolidated.01.pth", dir / "consolidated.02.pth");
  EXPECT_THAT(error_of(dir.path()), HasSubstr("consolidated.01.pth is missing"));
  std::filesystem::copy(dir / "consolidated.00.pth", dir / "consolidated.0.pth");
  EXPECT_THAT(error_of(dir.path()), HasSubstr("shard 0 occurs twice"));
  for (const char* name : {"consolidated.0.pth", "consolidated.00.pth"}) {
    std::filesystem::remove(dir / name);
  }
  EXPECT_THAT(error_of(dir.path()), HasSubstr("consolidated.00.pth is missing"));
  std::filesystem::remove(dir / "params.json");
  EXPECT_THAT(error_of(dir.path()), AllOf(HasSubstr("NOT_FOUND"), HasSubstr("params.json")));
  // One shard of two, as if the other had not been downloaded.
  TempDir half;
  write_meta_folder({}, {.shards = 2}, half.path());
  std::filesystem::remove(half / "consolidated.01.pth");
  EXPECT_THAT(error_of(half.path()), HasSubstr("found [132, 32]"));
}

TEST(MetaSource, TensorsThatAreMissingOrForeign) {
  EXPECT_THAT(error_of_edit([](auto& tensors) {
                std::erase_if(tensors, [](const RawTensor& t) {
                  return t.name == "layers.1.attention.wo.weight";
                });
              }),
              HasSubstr("tensor \"layers.1.attention.wo.weight\": is missing"));
  for (const char* name : {"layers.2.attention.wq.weight", "layers.0.attention.wq.lora_a.weight",
                           "layers.0.attention.wq.bias"}) {
    EXPECT_THAT(error_of_edit([&](auto& tensors) {
                  tensors.push_back({name, "F32", {1}, std::string(4, '\1')});
                }),
                AllOf(HasSubstr(name), HasSubstr("is not part of a plain Llama of 2 layers")));
  }
  for (const char* name : {"rope.freqs", "layers.0.attention.inner_attention.rope.freqs"}) {
    EXPECT_EQ(error_of_edit([&](auto& tensors) {
                tensors.push_back({name, "F64", {1}, std::string(8, '\1')});
              }),
              "accepted");
  }
}

TEST(MetaSource, ShapesAndTypes) {
  const auto change = [](const std::string& name, auto how) {
    return error_of_edit([&](auto& tensors) {
      for (RawTensor& tensor : tensors) {
        if (tensor.name == name) how(tensor);
      }
    });
  };
  EXPECT_THAT(change("layers.0.attention.wk.weight", [](RawTensor& t) { t.shape = {32, 16}; }),
              HasSubstr("expected shape [16, 32], found [32, 16]"));
  EXPECT_THAT(change("norm.weight", [](RawTensor& t) { t.shape = {1, 32}; }),
              HasSubstr("\"norm.weight\": expected shape [32], found [1, 32]"));
  EXPECT_THAT(change("norm.weight",
                     [](RawTensor& t) {
                       t.dtype = "F64";
                       t.bytes += t.bytes;
                     }),
              AllOf(HasSubstr("UNIMPLEMENTED"), HasSubstr("found float64")));
  const auto second = [](int shard, std::vector<RawTensor>& tensors) {
    if (shard == 1) tensors.back().bytes[0] ^= 1;  // the last norm
  };
  const auto with_norm_last = [&](int shard, std::vector<RawTensor>& tensors) {
    const auto norm = std::find_if(tensors.begin(), tensors.end(),
                                   [](const RawTensor& t) { return t.name == "norm.weight"; });
    std::rotate(norm, norm + 1, tensors.end());
    second(shard, tensors);
  };
  EXPECT_THAT(error_of({.shards = 2, .edit = with_norm_last}),
              AllOf(HasSubstr("consolidated.01.pth"), HasSubstr("\"norm.weight\": differs")));
}

TEST(MetaSource, WidthMustAgreeWithTheRule) {
  json params = meta_params({});
  params["ffn_dim_multiplier"] = 1.5;
  EXPECT_THAT(error_of({.params = params}),
              AllOf(HasSubstr("layers.0.feed_forward.w1.weight"),
                    HasSubstr("expected shape [128, 32], found [64, 32]")));
}

TEST(MetaSource, SideFiles) {
  TempDir dir;
  write_meta_folder({}, {}, dir.path());
  EXPECT_THAT(decisions_of(dir.path()), Contains(HasSubstr("no tokenizer")));
  testing::write_file(dir / "tokenizer.model", "pieces");
  const auto source = open_meta(dir.path(), {});
  ASSERT_TRUE(source.ok()) << source.status();
  const auto files = (*source)->side_files();
  ASSERT_EQ(files.size(), 2u);
  EXPECT_EQ(files[0].name, "generation_config.json");
  EXPECT_EQ(json::parse(files[0].content),
            (json{{"bos_token_id", 1}, {"eos_token_id", json::array({2})}}));
  EXPECT_EQ(files[1].copy_of, dir / "tokenizer.model");
  EXPECT_EQ((*source)->inputs().size(), 3u);
}

TEST(MetaParams, WidthRule) {
  EXPECT_EQ(meta_mlp_width(2048, 1.5, 256), 8192);    // Llama 3.2 1B
  EXPECT_EQ(meta_mlp_width(3072, 1.0, 256), 8192);    // 3B
  EXPECT_EQ(meta_mlp_width(4096, 1.3, 1024), 14336);  // Llama 3.1 8B
  EXPECT_EQ(meta_mlp_width(4096, {}, 256), 11008);    // Llama 2 7B
  EXPECT_EQ(meta_mlp_width(5120, {}, 256), 13824);    // 13B
  EXPECT_EQ(meta_mlp_width(8192, 1.3, 4096), 28672);  // 70B
}

json llama3(int layers) {
  return {{"dim", 2048},
          {"n_layers", layers},
          {"n_heads", 32},
          {"n_kv_heads", 8},
          {"vocab_size", 128256},
          {"ffn_dim_multiplier", 1.5},
          {"multiple_of", 256},
          {"norm_eps", 1e-5},
          {"rope_theta", 500000.0},
          {"use_scaled_rope", true}};
}

MetaParams parsed(const json& params, const SourceOptions& options = {}) {
  const auto result = parse_meta_params(params.dump(), "params.json", options);
  EXPECT_TRUE(result.ok()) << result.status();
  return result.ok() ? *result : MetaParams();
}
std::string params_error(const json& params, const SourceOptions& options = {}) {
  const auto result = parse_meta_params(params.dump(), "params.json", options);
  return result.ok() ? "accepted" : result.status().ToString();
}

TEST(MetaParams, RopeFactor) {
  for (const auto& [layers, factor] : {std::pair(16, 32.0), {28, 32.0}, {32, 8.0}, {80, 8.0}}) {
    const MetaParams params = parsed(llama3(layers));
    EXPECT_EQ(params.config.rope_scaling, RopeScaling(Llama3RopeScaling{.factor = factor}))
        << layers;
    EXPECT_EQ(params.config.context, 131072);
    EXPECT_EQ(params.config.rope_theta, 500000);
  }
  EXPECT_THAT(parsed(llama3(16)).decisions,
              Contains("rope factor 32: 16 layers (a Llama 3.2 size)"));
  const MetaParams asked = parsed(llama3(16), {.rope_factor = 8});
  EXPECT_EQ(asked.config.rope_scaling, RopeScaling(Llama3RopeScaling{.factor = 8}));
  EXPECT_THAT(asked.decisions, Contains("rope factor 8: asked for"));
  EXPECT_THAT(params_error(llama3(16), {.rope_factor = 0.5}), HasSubstr("expected a number in 1"));
  json unscaled = llama3(16);
  unscaled["use_scaled_rope"] = false;
  EXPECT_THAT(params_error(unscaled, {.rope_factor = 8}), HasSubstr("use_scaled_rope: expected t"));
}

TEST(MetaParams, Contexts) {
  json params = llama3(32);
  params.erase("use_scaled_rope");
  EXPECT_EQ(parsed(params).config.context, 8192);
  EXPECT_FALSE(parsed(params).config.rope_scaling);
  params.erase("rope_theta");
  EXPECT_EQ(parsed(params).config.context, 4096);
  EXPECT_EQ(parsed(params).config.rope_theta, 10000);
  EXPECT_THAT(parsed(params).decisions, Contains(HasSubstr("Llama 1, which has 2048")));
}

TEST(MetaParams, Tokens) {
  const auto tokens = [](const std::string& folder, const json& json_params) {
    MetaParams params = parsed(json_params);
    choose_meta_tokens(folder, params);
    return params;
  };
  EXPECT_THAT(tokens("Llama3.2-1B", llama3(16)).config.eos_tokens, ElementsAre(128001));
  for (const char* folder : {"Llama3.2-1B-Instruct", "download", ""}) {
    const MetaParams params = tokens(folder, llama3(16));
    EXPECT_EQ(params.config.bos_token, 128000);
    EXPECT_THAT(params.config.eos_tokens, ElementsAre(128001, 128008, 128009)) << folder;
    EXPECT_THAT(params.decisions, Contains(HasSubstr("eos 128001, 128008, 128009")));
  }
  json llama2 = llama3(32);
  llama2["vocab_size"] = 32000;
  EXPECT_EQ(tokens("llama-2-7b", llama2).config.bos_token, 1);
  EXPECT_THAT(tokens("llama-2-7b", llama2).config.eos_tokens, ElementsAre(2));
}

TEST(MetaParams, OtherModelsAreRefusedByName) {
  for (const char* key : {"quantization_args", "lora_args", "vision_chunk_size", "moe", "head_dim",
                          "sliding_window"}) {
    json params = llama3(16);
    params[key] = {{"group_size", 32}};
    EXPECT_THAT(params_error(params),
                AllOf(HasSubstr("UNIMPLEMENTED"), HasSubstr(key), HasSubstr("params.json")));
    params[key] = nullptr;
    EXPECT_EQ(params_error(params), "accepted");
  }
}

TEST(MetaParams, Limits) {
  const auto with = [](const char* key, const json& value) {
    json params = llama3(16);
    params[key] = value;
    return params_error(params);
  };
  for (const auto& [key, value] :
       std::vector<std::pair<const char*, json>>{{"dim", 0},
                                                 {"dim", "2048"},
                                                 {"dim", 1e30},
                                                 {"dim", 2050},
                                                 {"dim", 32},
                                                 {"n_layers", -1},
                                                 {"n_layers", 100000},
                                                 {"n_heads", 0},
                                                 {"n_kv_heads", 3},
                                                 {"vocab_size", -2},
                                                 {"vocab_size", 1 << 30},
                                                 {"multiple_of", 0},
                                                 {"ffn_dim_multiplier", -1},
                                                 {"ffn_dim_multiplier", 1e9},
                                                 {"norm_eps", 0},
                                                 {"norm_eps", "small"},
                                                 {"rope_theta", 0},
                                                 {"use_scaled_rope", 1}}) {
    EXPECT_THAT(with(key, value), AllOf(HasSubstr("INVALID_ARGUMENT"), HasSubstr(": expected")))
        << key << " " << value;
  }
  json params = llama3(16);
  params.erase("dim");
  EXPECT_THAT(params_error(params), HasSubstr("dim: expected an integer, found nothing"));
  EXPECT_THAT(params_error(json::array()), HasSubstr("expected a JSON object"));
}

}  // namespace
}  // namespace kascade::convert
