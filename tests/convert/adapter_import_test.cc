// Adapters of the Python project, in the three ways in which it named their tensors.
#include "tools/convert/adapter_import.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/tiny_model.h"
#include "tests/support/torch_writer.h"

namespace kascade::convert {
namespace {

using ::testing::HasSubstr;
using testing::RawTensor;

constexpr AdapterShape kShape{.layers = 2, .hidden = 6, .heads = 4, .kv_heads = 2, .head_dim = 4};
constexpr int64_t kUnits = 8;  // of networks over 4 tokens of 4 components

struct Folder {
  std::vector<RawTensor> tensors{};
  nlohmann::json options = {
      {"compress_block_size", 4},   {"compress_stride", 2},      {"selection_block_size", 8},
      {"num_selected_blocks", 3},   {"sliding_window_size", 16}, {"k_compress_method", "max_pool"},
      {"v_compress_method", "mlp"},
  };

  // Every value of the folder is another one.
  void add(const std::string& name, const std::vector<int64_t>& shape) {
    int64_t elements = 1;
    for (const int64_t size : shape) elements *= size;
    RawTensor tensor{name, "F32", shape, ""};
    for (int64_t i = 0; i < elements; ++i) {
      const auto value = static_cast<float>(next_++);
      tensor.bytes.append(reinterpret_cast<const char*>(&value), sizeof(value));
    }
    tensors.push_back(std::move(tensor));
  }
  void add_in_all_layers(const std::string& name, const std::vector<int64_t>& shape) {
    for (int32_t layer = 0; layer < kShape.layers; ++layer) {
      add(std::to_string(layer) + "." + name, shape);
    }
  }
  RawTensor& named(const std::string& name) {
    return *std::ranges::find(tensors, name, &RawTensor::name);
  }

 private:
  int32_t next_ = 1;
};

Folder first_revision() {
  Folder folder;
  for (const char* side : {"k", "v"}) {
    folder.add_in_all_layers(std::string(side) + "_compress.pos_emb", {2, 4, 4});
  }
  for (const char* head : {"0", "1"}) {
    const std::string network = std::string("v_compress.compress_mlps.") + head;
    folder.add_in_all_layers(network + ".0.weight", {kUnits, 16});
    folder.add_in_all_layers(network + ".2.weight", {4, kUnits});
  }
  folder.add_in_all_layers("compress_mem_kv", {2, 2, 1, 4});
  folder.add_in_all_layers("strategy_combiner.0.weight", {12, 6});
  folder.add_in_all_layers("strategy_combiner.0.bias", {12});
  return folder;
}

Folder middle_revision() {
  Folder folder;
  folder.options["v_compress_method"] = "mean_pool";
  for (const char* side : {"k", "v"}) {
    folder.add_in_all_layers(std::string(side) + "_compress.norm.weight", {4});
  }
  folder.add_in_all_layers("compress_mem_kv", {2, 2, 1, 4});
  folder.add_in_all_layers("strategy_combiner.weight", {12, 6});
  folder.add_in_all_layers("strategy_combiner.bias", {12});
  folder.add_in_all_layers("combine_heads.weight", {6, 16});
  return folder;
}

Folder last_revision() {
  Folder folder;
  folder.options["k_compress_method"] = "mlp";
  const std::string prefix = "sparse_attn.";
  for (const char* side : {"k", "v"}) {
    folder.add_in_all_layers(prefix + side + "_intrablock_positions", {2, 4, 4});
    const std::string network = prefix + side + "_compress";
    folder.add_in_all_layers(network + ".1.weight", {kUnits, 16});
    folder.add_in_all_layers(network + ".1.bias", {kUnits});
    folder.add_in_all_layers(network + ".3.weight", {4, kUnits});
    folder.add_in_all_layers(network + ".3.bias", {4});
  }
  folder.add_in_all_layers(prefix + "compress_mem_kv", {2, 2, 1, 4});
  folder.add_in_all_layers(prefix + "to_strategy_combine.0.weight", {12, 6});
  folder.add_in_all_layers(prefix + "to_strategy_combine.0.bias", {12});
  folder.add_in_all_layers(prefix + "combine_heads.weight", {6, 16});
  folder.add_in_all_layers(prefix + "to_qkv.weight", {32, 6});
  return folder;
}

class AdapterImportTest : public ::testing::Test {
 protected:
  absl::StatusOr<ImportedAdapter> read(const Folder& folder) {
    testing::write_file(path_ / "sparse_adapters.pt",
                        testing::torch_bytes(folder.tensors, {.wrapper = "sparse_adapters"}));
    const nlohmann::json description = {{"model_id", "m"}, {"sparse_attn_config", folder.options}};
    testing::write_file(path_ / "training_config.json", description.dump());
    return import_torch_adapter(path_.path(), kShape);
  }
  std::string fault(const Folder& folder) {
    const auto imported = read(folder);
    return imported.ok() ? "accepted" : std::string(imported.status().message());
  }

  testing::TempDir path_;
};

// A tensor's values in the last layer.
std::vector<float> values(const Adapter& adapter, const AdapterTensor& tensor) {
  const auto begin = adapter.parameters.begin() +
                     layer_parameters(adapter.shape, adapter.options).size + tensor.offset;
  return {begin, begin + tensor.size()};
}
std::vector<float> values(RawTensor& tensor) {
  const auto* const first = reinterpret_cast<const float*>(tensor.bytes.data());
  return {first, first + tensor.bytes.size() / sizeof(float)};
}
std::vector<float> joined(std::vector<float> first, const std::vector<float>& second) {
  first.insert(first.end(), second.begin(), second.end());
  return first;
}

TEST_F(AdapterImportTest, FirstRevisionHasNetworksOfEachHead) {
  Folder folder = first_revision();
  const auto imported = read(folder);
  ASSERT_TRUE(imported.ok()) << imported.status();
  const Adapter& adapter = imported->adapter;
  const AdapterOptions& options = adapter.options;
  EXPECT_EQ(options.compress_block, 4);
  EXPECT_EQ(options.compress_stride, 4);  // the flag had no effect
  EXPECT_EQ(options.selection_block, 8);
  EXPECT_EQ(options.selected_blocks, 4);  // and the row's own
  EXPECT_EQ(options.window, 16);
  EXPECT_EQ(options.key_compressor, Compressor::kMax);
  EXPECT_EQ(options.value_compressor, Compressor::kMlp);
  EXPECT_EQ(options.gate, GateFunction::kSigmoid);
  EXPECT_FALSE(options.shared_mlp || options.mlp_bias || options.own_output);
  const LayerParameters layer = layer_parameters(adapter.shape, options);
  ASSERT_EQ(layer.values.units(), kUnits);
  EXPECT_EQ(values(adapter, layer.keys.positions), values(folder.named("1.k_compress.pos_emb")));
  const std::string networks = "1.v_compress.compress_mlps.";
  EXPECT_EQ(values(adapter, layer.values.hidden_weight),
            joined(values(folder.named(networks + "0.0.weight")),
                   values(folder.named(networks + "1.0.weight"))));
  EXPECT_EQ(values(adapter, layer.values.out_weight),
            joined(values(folder.named(networks + "0.2.weight")),
                   values(folder.named(networks + "1.2.weight"))));
  EXPECT_EQ(values(adapter, layer.memory), values(folder.named("1.compress_mem_kv")));
  EXPECT_EQ(values(adapter, layer.gate_weight),
            values(folder.named("1.strategy_combiner.0.weight")));
  EXPECT_EQ(imported->decisions.size(), 3u);
}

TEST_F(AdapterImportTest, MiddleRevisionHasNormsAndAnOutput) {
  Folder folder = middle_revision();
  const auto imported = read(folder);
  ASSERT_TRUE(imported.ok()) << imported.status();
  const Adapter& adapter = imported->adapter;
  EXPECT_EQ(adapter.options.gate, GateFunction::kSoftmax);
  EXPECT_EQ(adapter.options.value_compressor, Compressor::kMean);
  const LayerParameters layer = layer_parameters(adapter.shape, adapter.options);
  EXPECT_EQ(values(adapter, layer.keys.positions), std::vector<float>(32, 0));
  EXPECT_EQ(values(adapter, layer.values.norm), values(folder.named("1.v_compress.norm.weight")));
  EXPECT_EQ(values(adapter, layer.output), values(folder.named("1.combine_heads.weight")));
  EXPECT_EQ(values(adapter, layer.gate_bias), values(folder.named("1.strategy_combiner.bias")));
}

TEST_F(AdapterImportTest, LastRevisionHasProjectionsAndOneNetwork) {
  Folder folder = last_revision();
  const auto imported = read(folder);
  ASSERT_TRUE(imported.ok()) << imported.status();
  const Adapter& adapter = imported->adapter;
  const AdapterOptions& options = adapter.options;
  EXPECT_EQ(options.compress_stride, 2);
  EXPECT_TRUE(options.shared_mlp && options.mlp_bias && options.own_projections);
  const LayerParameters layer = layer_parameters(adapter.shape, options);
  const std::string prefix = "1.sparse_attn.";
  EXPECT_EQ(values(adapter, layer.projections), values(folder.named(prefix + "to_qkv.weight")));
  EXPECT_EQ(values(adapter, layer.keys.hidden_bias),
            values(folder.named(prefix + "k_compress.1.bias")));
  EXPECT_EQ(values(adapter, layer.values.out_weight),
            values(folder.named(prefix + "v_compress.3.weight")));
  EXPECT_EQ(values(adapter, layer.values.positions),
            values(folder.named(prefix + "v_intrablock_positions")));
}

TEST_F(AdapterImportTest, IsSavedAndReadAgain) {
  for (const Folder& folder : {first_revision(), middle_revision(), last_revision()}) {
    auto imported = read(folder);
    ASSERT_TRUE(imported.ok()) << imported.status();
    imported->adapter.weights_digest = "d";
    ASSERT_TRUE(save_adapter(imported->adapter, path_ / "out").ok());
    const auto loaded = load_adapter(path_ / "out");
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    EXPECT_EQ(loaded->parameters, imported->adapter.parameters);
    EXPECT_EQ(loaded->options, imported->adapter.options);
    EXPECT_EQ(loaded->training["imported_from"]["model_id"], "m");
  }
}

TEST_F(AdapterImportTest, TensorsThatDoNotFitAreNamed) {
  const auto fault_after = [&](const std::function<void(Folder&)>& change) {
    Folder folder = first_revision();
    change(folder);
    return fault(folder);
  };
  EXPECT_THAT(fault_after([](Folder& folder) { folder.named("1.compress_mem_kv").name = "1.x"; }),
              HasSubstr("tensor \"1.compress_mem_kv\": is missing"));
  EXPECT_THAT(fault_after([](Folder& folder) { folder.add("2.compress_mem_kv", {2, 2, 1, 4}); }),
              HasSubstr("\"2.compress_mem_kv\": is of no part of this adapter"));
  EXPECT_THAT(
      fault_after(
          [](Folder& folder) { folder.named("1.strategy_combiner.0.weight").shape = {6, 12}; }),
      HasSubstr("\"1.strategy_combiner.0.weight\": expected the shape [12, 6], found [6, 12]"));
  EXPECT_THAT(fault_after([](Folder& folder) {
                const float nan = std::numeric_limits<float>::quiet_NaN();
                std::memcpy(folder.named("0.strategy_combiner.0.bias").bytes.data() + 4, &nan, 4);
              }),
              HasSubstr("\"0.strategy_combiner.0.bias\": value 1 is not finite"));
  EXPECT_THAT(fault_after([](Folder& folder) { folder.tensors.resize(4); }),
              HasSubstr("expected a tensor \"0.strategy_combiner.0.weight\""));
}

TEST_F(AdapterImportTest, OptionsThatDoNotFitAreNamed) {
  const auto fault_with = [&](const std::string& key, const nlohmann::json& value) {
    Folder folder = first_revision();
    folder.options[key] = value;
    if (value.is_null()) folder.options.erase(key);
    return fault(folder);
  };
  EXPECT_THAT(fault_with("sliding_window_size", nullptr),
              HasSubstr("sparse_attn_config: sliding_window_size: is missing"));
  EXPECT_THAT(fault_with("compress_block_size", "4"),
              HasSubstr("compress_block_size: must be an integer in [1, 1048576], is \"4\""));
  EXPECT_THAT(fault_with("k_compress_method", "attention"), HasSubstr("k_compress_method: "));
  EXPECT_THAT(fault_with("compress_block_size", 1000), HasSubstr("sparse_attn_config: compress"));
}

TEST_F(AdapterImportTest, MissingFilesAreNamed) {
  EXPECT_FALSE(has_torch_adapter(path_.path()));
  EXPECT_TRUE(absl::IsNotFound(import_torch_adapter(path_.path(), kShape).status()));
  ASSERT_TRUE(read(first_revision()).ok());
  EXPECT_TRUE(has_torch_adapter(path_.path()));
  std::filesystem::remove(path_ / "sparse_adapters.pt");
  EXPECT_THAT(import_torch_adapter(path_.path(), kShape).status().message(),
              HasSubstr("sparse_adapters.pt"));
}

}  // namespace
}  // namespace kascade::convert
