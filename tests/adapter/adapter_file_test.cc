#include "engine/adapter/adapter_file.h"

#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <functional>
#include <limits>
#include <sstream>
#include <string>

#include "tests/support/tiny_model.h"

namespace kascade {
namespace {

Adapter example() {
  Adapter adapter;
  adapter.shape = {.layers = 2, .hidden = 6, .heads = 4, .kv_heads = 2, .head_dim = 4};
  adapter.options.compress_block = adapter.options.compress_stride = 4;
  adapter.options.selection_block = 8;
  adapter.options.gate_start = {-3, -1, 0.5};
  adapter.weights_digest = "abc";
  adapter.training = {{"updates", 7}};
  adapter.parameters.resize(2 * layer_parameters(adapter.shape, adapter.options).size);
  for (size_t i = 0; i < adapter.parameters.size(); ++i) {
    adapter.parameters[i] = 0.1f * static_cast<float>(i) - 3;
  }
  return adapter;
}

std::string content(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

class AdapterFileTest : public ::testing::Test {
 protected:
  AdapterFileTest() { EXPECT_TRUE(save_adapter(example(), folder_.path()).ok()); }

  std::string fault() {
    const auto loaded = load_adapter(folder_.path());
    return loaded.ok() ? "" : std::string(loaded.status().message());
  }
  // The fault after a change of adapter.json.
  std::string fault_with(const std::function<void(nlohmann::json&)>& change) {
    nlohmann::json object = nlohmann::json::parse(content(folder_ / "adapter.json"));
    change(object);
    kascade::testing::write_file(folder_ / "adapter.json", object.dump());
    const std::string result = fault();
    EXPECT_TRUE(save_adapter(example(), folder_.path()).ok());
    return result;
  }

  kascade::testing::TempDir folder_;
};

TEST_F(AdapterFileTest, IsReadAsItWasWritten) {
  const auto loaded = load_adapter(folder_.path());
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  const Adapter written = example();
  EXPECT_EQ(loaded->shape, written.shape);
  EXPECT_EQ(loaded->options, written.options);
  EXPECT_EQ(loaded->weights_digest, written.weights_digest);
  EXPECT_EQ(loaded->training, written.training);
  EXPECT_EQ(loaded->parameters, written.parameters);
}

TEST_F(AdapterFileTest, FaultsOfTheDescriptionAreNamed) {
  const auto expect = [&](const std::function<void(nlohmann::json&)>& change,
                          const std::string& part) {
    EXPECT_NE(fault_with(change).find(part), std::string::npos) << fault_with(change);
  };
  expect([](auto& o) { o["format"] = 2; }, "format: must be 1, is 2");
  expect([](auto& o) { o.erase("training"); }, "\"training\" is missing");
  expect([](auto& o) { o["colour"] = 1; }, "unknown key \"colour\"");
  expect([](auto& o) { o["model"]["heads"] = 3; }, "must be a multiple of kv_heads");
  expect([](auto& o) { o["model"]["hidden"] = 1 << 30; }, "model.hidden: must be in [1, 65536]");
  expect([](auto& o) { o["options"]["window"] = "64"; }, "window: must be an integer");
  expect([](auto& o) { o["options"]["window"] = 1e300; }, "window: must be an integer");
  expect([](auto& o) { o["options"]["gate"] = "tanh"; }, "gate: must be sigmoid or softmax");
  expect([](auto& o) { o["options"]["gate_start"] = {1, 2}; }, "gate_start: must be three numbers");
  expect([](auto& o) { o["options"]["selection_block"] = 2; }, "selection_block");
  expect([](auto& o) { o["options"]["window"] = 128; }, "");  // another window is no fault
  EXPECT_EQ(fault_with([](auto& o) { o["options"]["window"] = 128; }), "");
}

TEST_F(AdapterFileTest, TensorsMustBeThoseOfTheOptions) {
  EXPECT_NE(fault_with([](auto& o) {
              o["model"]["hidden"] = 7;
            }).find("tensor layers.0.gate.weight: must have the shape [12,7], has [12,6]"),
            std::string::npos);
  EXPECT_NE(fault_with([](auto& o) {
              o["model"]["layers"] = 3;
            }).find("tensor layers.2.keys.positions is missing"),
            std::string::npos);
  EXPECT_NE(fault_with([](auto& o) { o["model"]["layers"] = 1; }).find("tensors, expected"),
            std::string::npos);
}

TEST_F(AdapterFileTest, NumbersThatAreNotFiniteAreRefused) {
  Adapter adapter = example();
  adapter.parameters[3] = std::numeric_limits<float>::quiet_NaN();
  ASSERT_TRUE(save_adapter(adapter, folder_.path()).ok());
  EXPECT_NE(fault().find("tensor layers.0.keys.positions holds a value that is not finite"),
            std::string::npos);
}

TEST_F(AdapterFileTest, DamagedAndMissingFilesAreNamed) {
  const std::string tensors = content(folder_ / "adapter.safetensors");
  kascade::testing::write_file(folder_ / "adapter.safetensors",
                               std::string_view(tensors).substr(0, tensors.size() - 4));
  EXPECT_NE(fault().find("adapter.safetensors"), std::string::npos);
  std::filesystem::remove(folder_ / "adapter.safetensors");
  EXPECT_EQ(load_adapter(folder_.path()).status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace kascade
