// Tests Hugging Face folders with pytorch_model.bin: the tensors that are read must equal those
// that were written.
#include <algorithm>
#include <span>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/tiny_model.h"
#include "tests/support/torch_writer.h"
#include "tools/convert/source.h"

namespace kascade::convert {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::Contains;
using ::testing::HasSubstr;
using testing::RawTensor;
using testing::TempDir;
using testing::tiny_tensors;
using testing::TinyModel;
using testing::write_file;

// config.json and these tensors; several shards get an index.
void write_folder(const TinyModel& model, const std::vector<RawTensor>& tensors,
                  const std::filesystem::path& directory, size_t shards = 1) {
  write_file(directory / "config.json", testing::tiny_config(model).dump());
  if (shards == 1) return write_file(directory / "pytorch_model.bin", torch_bytes(tensors));
  json map;
  for (size_t shard = 0; shard < shards; ++shard) {
    const std::string name = "pytorch_model-" + std::to_string(shard) + ".bin";
    std::vector<RawTensor> part;
    for (size_t i = shard; i < tensors.size(); i += shards) {
      part.push_back(tensors[i]);
      map[tensors[i].name] = name;
    }
    write_file(directory / name, torch_bytes(part));
  }
  write_file(directory / "pytorch_model.bin.index.json", json{{"weight_map", map}}.dump());
}

std::string error_of(const std::filesystem::path& folder, const SourceOptions& options = {}) {
  const auto source = open_hugging_face_bin(folder, options);
  return source.ok() ? "accepted" : source.status().ToString();
}
std::string error_of(const TinyModel& model, const std::vector<RawTensor>& tensors) {
  TempDir dir;
  write_folder(model, tensors, dir.path());
  return error_of(dir.path());
}

// The folder gives exactly the tensors of `model`.
void expect_model(const std::filesystem::path& folder, const TinyModel& model) {
  const auto opened = open_hugging_face_bin(folder, {});
  ASSERT_TRUE(opened.ok()) << opened.status();
  Source& source = **opened;
  const std::vector<RawTensor> expected = tiny_tensors(model);
  ASSERT_EQ(source.tensors().size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    const SourceTensor& tensor = source.tensors()[i];
    const auto found = std::find_if(expected.begin(), expected.end(), [&](const RawTensor& other) {
      return other.name == tensor.name;
    });
    ASSERT_NE(found, expected.end()) << tensor.name;
    EXPECT_EQ(tensor.shape, found->shape) << tensor.name;
    std::string bytes(static_cast<size_t>(tensor.bytes()), '\0');
    ASSERT_TRUE(source.read(i, std::as_writable_bytes(std::span(bytes))).ok());
    EXPECT_TRUE(bytes == found->bytes) << tensor.name << " has other bytes";
  }
  EXPECT_EQ(json::parse(source.config_json()), testing::tiny_config(model));
  EXPECT_EQ(source.config().tied_head, model.tied);
  EXPECT_EQ(source.config().name, folder.filename());
}

TEST(HuggingFaceBin, OneFileAndShards) {
  for (const size_t shards : {1, 3}) {
    for (const DType dtype : {DType::kBF16, DType::kF16, DType::kF32}) {
      TempDir dir;
      const TinyModel model = {.dtype = dtype};
      write_folder(model, tiny_tensors(model), dir.path(), shards);
      expect_model(dir.path(), model);
    }
  }
}

TEST(HuggingFaceBin, TiedTables) {
  const TinyModel tied = {.tied = true};
  for (const auto table :
       {testing::TinyTable::kEmbedding, testing::TinyTable::kHead, testing::TinyTable::kBoth}) {
    TempDir dir;
    write_folder(tied, tiny_tensors({.tied = true, .table = table}), dir.path());
    expect_model(dir.path(), tied);
  }
  std::vector<RawTensor> other = tiny_tensors({.tied = true, .table = testing::TinyTable::kBoth});
  for (RawTensor& tensor : other) {
    if (tensor.name == "lm_head.weight") tensor.bytes.back() ^= 1;
  }
  EXPECT_THAT(error_of(tied, other), HasSubstr("lm_head.weight: expected the elements of"));
  EXPECT_THAT(error_of({}, tiny_tensors(tied)), HasSubstr("\"lm_head.weight\": is missing"));
}

TEST(HuggingFaceBin, TensorsThatDoNotFit) {
  std::vector<RawTensor> tensors = tiny_tensors({});
  tensors.push_back({"model.layers.0.self_attn.rotary_emb.inv_freq", "F32", {1}, "\1\1\1\1"});
  EXPECT_EQ(error_of({}, tensors), "accepted");
  tensors.push_back({"model.layers.0.self_attn.q_proj.bias", "F32", {1}, "\1\1\1\1"});
  EXPECT_THAT(error_of({}, tensors),
              HasSubstr("q_proj.bias\": is not part of a model of type \"llama\" with 2 lay"));
  tensors = tiny_tensors({});
  std::erase_if(tensors, [](const RawTensor& t) { return t.name == "model.norm.weight"; });
  EXPECT_THAT(error_of({}, tensors), HasSubstr("\"model.norm.weight\": is missing"));
  tensors.push_back({"model.norm.weight", "F64", {32}, std::string(256, '\1')});
  EXPECT_THAT(error_of({}, tensors), AllOf(HasSubstr("UNIMPLEMENTED"), HasSubstr("found float64")));
  tensors.back() = {"model.norm.weight", "F32", {31}, std::string(124, '\1')};
  EXPECT_THAT(error_of({}, tensors), HasSubstr("expected shape [32], found [31]"));
}

TEST(HuggingFaceBin, Index) {
  TempDir dir;
  write_folder({}, tiny_tensors({}), dir.path(), 2);
  const auto index = dir / "pytorch_model.bin.index.json";
  const json good = {{"weight_map", [&] {
                        json map;
                        for (const RawTensor& tensor : tiny_tensors({})) {
                          map[tensor.name] = "pytorch_model-0.bin";
                        }
                        return map;
                      }()}};
  const auto with = [&](const json& map) {
    write_file(index, json{{"weight_map", map}}.dump());
    return error_of(dir.path());
  };
  EXPECT_THAT(with(good["weight_map"]), HasSubstr("should be in this file by the index"));
  EXPECT_THAT(with({{"x", "pytorch_model-0.bin"}}), HasSubstr("the index does not say so"));
  EXPECT_THAT(with({{"x", "none.bin"}}),
              AllOf(HasSubstr("1 of the 1 files that it lists are missing: none.bin"),
                    HasSubstr("incomplete")));
  EXPECT_THAT(with(7), HasSubstr("weight_map must be an object"));
  for (const json& name :
       {json("../a.bin"), json("/a.bin"), json("a.safetensors"), json(1), json("a\\b.bin")}) {
    EXPECT_THAT(with({{"x", name}}), HasSubstr("expected the name of a .bin file beside"));
  }
  std::filesystem::remove(index);
  EXPECT_THAT(error_of(dir.path()),
              AllOf(HasSubstr("NOT_FOUND"), HasSubstr("found neither pytorch_model.bin nor")));
}

TEST(HuggingFaceBin, ConfigAndSideFiles) {
  TempDir dir;
  TinyModel model;
  model.rope_scaling = Llama3RopeScaling{.factor = 8};
  write_folder(model, tiny_tensors(model), dir.path());
  write_file(dir / "tokenizer.model", "pieces");
  const auto source = open_hugging_face_bin(dir.path(), {.rope_factor = 32});
  ASSERT_TRUE(source.ok()) << source.status();
  EXPECT_EQ((*source)->config().rope_scaling, RopeScaling(Llama3RopeScaling{.factor = 32}));
  EXPECT_EQ(json::parse((*source)->config_json())["rope_scaling"]["factor"], 32.0);
  EXPECT_THAT((*source)->decisions(), Contains("rope factor 32: asked for"));
  ASSERT_EQ((*source)->side_files().size(), 1u);
  EXPECT_EQ((*source)->side_files()[0].copy_of, dir / "tokenizer.model");
  EXPECT_EQ((*source)->inputs().size(), 2u);
  std::filesystem::remove(dir / "config.json");
  EXPECT_THAT(error_of(dir.path()), AllOf(HasSubstr("NOT_FOUND"), HasSubstr("config.json")));
}

}  // namespace
}  // namespace kascade::convert
